"""The training loop's parts; whole trainings are in test_train.py and test_base_rpn.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ezsd.data.formats.coco import load_images
from ezsd.recipe import TrainConfig
from ezsd.training.dataset import TrainingDataset
from ezsd.training.loop import rate_factor, train_model
from tiny import SPLIT, TinyCoco


class _Scales(nn.Module):
    """Two numbers with a loss each."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, images: list[Tensor], targets: list[Any], factor: Tensor) -> dict[str, Tensor]:
        assert len(images) == len(targets) == 4
        return {"loss_one": (self.one * factor).sum(), "loss_two": (self.two * factor).sum()}


def test_losses_are_weighed_and_inputs_reach_the_model(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    images = load_images(tiny_coco(tmp_path / "images").part(), SPLIT.base)
    settings = TrainConfig(epochs=0.5, lr=0.1, warmup_steps=0, weight_decay=0.0, distillation_weight=0.0)
    dataset = TrainingDataset(images, None, 0, settings, (32, 48), masks=False)
    model = _Scales()
    metrics = train_model(model, dataset, tmp_path, "test", 0, 0, [torch.tensor(3.0)], {"loss_two": 0.5})
    assert (metrics["steps"], metrics["images"]) == (1, 4)
    assert float(model.one.detach()) == pytest.approx(1 - 0.1 * 3)
    assert float(model.two.detach()) == pytest.approx(1 - 0.1 * 1.5)


def test_trainings_of_one_process_may_differ_in_precision(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    images = load_images(tiny_coco(tmp_path / "images").part(), SPLIT.base)
    for precision in ("fp32", "bf16", "fp32"):
        settings = TrainConfig(epochs=0.5, warmup_steps=0, distillation_weight=0.0, precision=precision)
        dataset = TrainingDataset(images, None, 0, settings, (32, 48), masks=False)
        assert train_model(_Scales(), dataset, tmp_path / precision, "test", 0, 0, [torch.ones(1)])["steps"] == 1


def test_the_rate_warms_up_then_falls() -> None:
    step = TrainConfig(schedule="step", warmup_steps=10, milestones=(0.5, 0.9))
    assert rate_factor(0, 100, step) == pytest.approx(1 / 11) and rate_factor(20, 100, step) == 1
    assert rate_factor(50, 100, step) == pytest.approx(0.1) and rate_factor(95, 100, step) == pytest.approx(0.01)
    cosine = TrainConfig(schedule="cosine", warmup_steps=0)
    factors = [rate_factor(number, 100, cosine) for number in range(100)]
    assert factors[0] == 1 and factors == sorted(factors, reverse=True) and factors[-1] < 0.01
