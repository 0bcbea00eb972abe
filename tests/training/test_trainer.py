"""train_model with a small model; complete trainings are in tests/pipeline/test_train.py and test_base_rpn.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ezsd.data.formats.coco import load_images
from ezsd.errors import MissingExtraError, RecipeError
from ezsd.recipe import TrainConfig
from ezsd.run_folder import TrainingFolder
from ezsd.training.dataset import TrainingDataset
from ezsd.training.trainer import Job, rate_factor, train_model
from ezsd.utils.device import check_trackers, new_accelerator
from tiny import SPLIT, TinyCoco


class _Scales(nn.Module):
    """Two scalar parameters with one loss each."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, images: list[Tensor], targets: list[Any], factor: Tensor) -> dict[str, Tensor]:
        assert len(images) == len(targets) == 4
        return {"loss_one": (self.one * factor).sum(), "loss_two": (self.two * factor).sum()}


def _dataset(make: Callable[..., TinyCoco], folder: Path, **changes: Any) -> TrainingDataset:
    images = load_images(make(folder / "images").part(), SPLIT.base)
    config = TrainConfig(**{"epochs": 0.5, "warmup_steps": 0, "distillation_weight": 0.0, **changes})
    return TrainingDataset(images, None, 0, config, (32, 48), masks=False)


def test_losses_are_weighted_and_inputs_are_passed_to_the_model(
    tiny_coco: Callable[..., TinyCoco], tmp_path: Path
) -> None:
    dataset = _dataset(tiny_coco, tmp_path, lr=0.1, weight_decay=0.0)
    model = _Scales()
    metrics = train_model(
        model, dataset, Job("test", TrainingFolder(tmp_path), 0), [torch.tensor(3.0)], {"loss_two": 0.5}
    )
    assert (metrics.steps, metrics.images) == (1, 4)
    assert float(model.one.detach()) == pytest.approx(1 - 0.1 * 3)
    assert float(model.two.detach()) == pytest.approx(1 - 0.1 * 1.5)


def test_gradients_of_accumulated_batches_are_averaged(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    dataset = _dataset(tiny_coco, tmp_path, lr=0.1, weight_decay=0.0, epochs=1, accumulate=2)
    model = _Scales()
    assert train_model(model, dataset, Job("test", TrainingFolder(tmp_path), 0), [torch.tensor(3.0)]).steps == 1
    assert float(model.one.detach()) == pytest.approx(1 - 0.1 * 3)


def test_trainings_in_one_process_can_use_different_precisions(
    tiny_coco: Callable[..., TinyCoco], tmp_path: Path
) -> None:
    coco = tiny_coco(tmp_path / "data")
    for precision in ("fp32", "bf16", "fp32"):
        dataset = _dataset(lambda _: coco, tmp_path, precision=precision)
        folder = tmp_path / precision / str(len(list(tmp_path.iterdir())))
        assert train_model(_Scales(), dataset, Job("test", TrainingFolder(folder), 0), [torch.ones(1)]).steps == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works on a GPU")
def test_fp16_without_a_gpu_raises_with_the_alternatives() -> None:
    with pytest.raises(RecipeError, match="fp16 needs a GPU. Set bf16 or fp32"):
        new_accelerator("fp16")


def test_on_step_gets_seconds_and_stops_the_training(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    dataset = _dataset(tiny_coco, tmp_path, epochs=100)
    seconds: list[float] = []

    def two_steps(step_seconds: float) -> bool:
        seconds.append(step_seconds)
        return len(seconds) < 2

    train_model(_Scales(), dataset, Job("test", TrainingFolder(tmp_path), 0, on_step=two_steps), [torch.ones(1)])
    assert len(seconds) == 2 and all(each > 0 for each in seconds)


def test_trackers_get_the_values_of_the_log(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    dataset = _dataset(tiny_coco, tmp_path, epochs=5, trackers=("tensorboard",))
    train_model(_Scales(), dataset, Job("test", TrainingFolder(tmp_path / "run"), 0), [torch.ones(1)])
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "ezsd"))
    events.Reload()
    (scalar,) = events.Scalars("train/loss_one")
    assert scalar.step == line["step"] == 10 and scalar.value == pytest.approx(line["loss_one"])


def test_without_trackers_only_the_log_is_written(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    train_model(
        _Scales(), _dataset(tiny_coco, tmp_path), Job("test", TrainingFolder(tmp_path / "run"), 0), [torch.ones(1)]
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["log.jsonl"]


def test_missing_tracker_raises_with_the_package() -> None:
    check_trackers(())
    with pytest.raises(MissingExtraError, match="trackio is not installed. Install it with: pip install trackio"):
        check_trackers(["trackio"])


def test_rate_warms_up_and_then_decays() -> None:
    step = TrainConfig(schedule="step", warmup_steps=10, milestones=(0.5, 0.9))
    assert rate_factor(0, 100, step) == pytest.approx(1 / 11) and rate_factor(20, 100, step) == 1
    assert rate_factor(50, 100, step) == pytest.approx(0.1) and rate_factor(95, 100, step) == pytest.approx(0.01)
    cosine = TrainConfig(schedule="cosine", warmup_steps=0)
    factors = [rate_factor(number, 100, cosine) for number in range(100)]
    assert factors[0] == 1 and factors == sorted(factors, reverse=True) and factors[-1] < 0.01
