"""Moving averages of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ezsd.training.averages import WeightAverages


def _trained(decay: float, steps: int) -> tuple[nn.Linear, WeightAverages, list[torch.Tensor]]:
    """Return a layer after random steps, its averages, and the weights after each step, the initial ones first."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    averages = WeightAverages(layer, decay)
    history = [layer.weight.detach().clone()]
    for step in range(steps):
        with torch.no_grad():
            layer.weight += torch.randn(2, 3, generator=generator)
        averages.update(step + 1)
        history.append(layer.weight.detach().clone())
    return layer, averages, history


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.998])
def test_average_is_the_weighted_sum_of_all_weights(decay: float) -> None:
    layer, averages, history = _trained(decay, 40)
    decays = [min(decay, (1 + steps) / (10 + steps)) for steps in range(1, 41)]
    shares = [(1 - own) * float(torch.tensor(decays[place + 1 :]).prod()) for place, own in enumerate(decays)]
    shares.insert(0, float(torch.tensor(decays).prod()))
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    expected = sum(share * weights for share, weights in zip(shares, history, strict=True))
    averages.apply()
    assert torch.allclose(layer.weight, torch.as_tensor(expected), atol=1e-4)


def test_first_average_is_near_the_weights_of_the_first_step() -> None:
    _, averages, (first, second) = _trained(0.998, 1)
    assert torch.allclose(averages.tensors["average.weight"], first * 2 / 11 + second * 9 / 11, atol=1e-6)


def test_weights_are_restored_after_the_block() -> None:
    layer, averages, history = _trained(0.9, 5)
    with pytest.raises(KeyboardInterrupt), averages.applied():
        assert torch.equal(layer.weight, averages.tensors["average.weight"])
        raise KeyboardInterrupt
    assert torch.equal(layer.weight, history[-1])


def test_only_trained_parameters_are_averaged() -> None:
    _, averages, _ = _trained(0.9, 1)
    assert averages.tensors.keys() == {"average.weight"}
