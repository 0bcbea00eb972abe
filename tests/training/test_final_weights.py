"""The weights that a training ends with, with a model of one weight."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from ezsd.recipe import TrainConfig
from ezsd.run_folder import TrainingFolder
from ezsd.training.final_weights import FinalWeights


class _Counter(nn.Module):
    """A weight that is the number of completed steps, and the weights and modes that were measured."""

    def __init__(self, results: Sequence[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.left, self.measured = list(results), list[float]()

    def measure(self, model: nn.Module) -> float:
        assert model is self and not self.training
        self.measured.append(round(float(self.weight.detach()), 4))
        return self.left.pop(0)


def _trained(folder: Path, results: Sequence[float], steps: int = 10, **changes: float) -> tuple[_Counter, int]:
    """Train and apply the final weights; return the model and the number of completed steps."""
    model = _Counter(results)
    model.train()
    config = TrainConfig(**{"validate_steps": 2, **changes})
    final = FinalWeights(model, config, steps, TrainingFolder(folder), model.measure)
    done = 0
    while done < steps and not final.is_finished():
        done += 1
        with torch.no_grad():
            model.weight += 1
        final.after_step(done)
        assert model.training and float(model.weight.detach()) == done
    final.apply()
    return model, done


def test_best_of_regular_validations_and_the_last_step_is_kept(tmp_path: Path) -> None:
    model, steps = _trained(tmp_path, [10, 30, 20, 0], steps=7)
    assert model.measured == [2, 4, 6, 7]
    assert (float(model.weight.detach()), steps) == (4, 7)
    lines = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert [(line["step"], line["ap50_base"]) for line in lines] == [(2, 10), (4, 30), (6, 20), (7, 0)]


def test_last_of_equal_results_is_kept(tmp_path: Path) -> None:
    assert float(_trained(tmp_path, [0, 5, 5, 4, 1])[0].weight.detach()) == 6


@pytest.mark.parametrize(("patience", "steps"), [(0, 10), (1, 6), (2, 8), (3, 10)])
def test_training_stops_after_validations_without_a_new_best(tmp_path: Path, patience: int, steps: int) -> None:
    model, done = _trained(tmp_path, [10, 30, 20, 25, 29], patience=patience)
    assert (float(model.weight.detach()), done) == (4, steps)


def test_averages_are_measured_and_kept_instead_of_the_weights(tmp_path: Path) -> None:
    average, averages = 0.0, []
    for step in range(1, 11):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * step
        averages.append(round(average, 4))
    model, _ = _trained(tmp_path, [1, 2, 3, 2, 1], ema=0.5)
    assert model.measured == pytest.approx(averages[1::2], abs=1e-3)
    assert float(model.weight.detach()) == pytest.approx(averages[5], abs=1e-3)


def test_without_validation_and_averages_the_last_weights_are_kept(tmp_path: Path) -> None:
    model = _Counter([])
    final = FinalWeights(model, TrainConfig(), 10, TrainingFolder(tmp_path))
    with torch.no_grad():
        model.weight += 3
    final.after_step(10)
    final.apply()
    assert float(model.weight.detach()) == 3 and not final.tensors and not final.is_finished()
    assert final.best_step is None and not list(tmp_path.iterdir())
