"""The training loop with a single scalar parameter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ezsd.errors import ArtifactError
from ezsd.training import loop
from ezsd.training.loop import Task, run_loop
from ezsd.utils.device import new_accelerator


class _Stopped(Exception):
    pass


def _task(folder: Path, stop: int | None = None, **changes: Any) -> tuple[nn.Parameter, Task]:
    value = nn.Parameter(torch.tensor([4.0]))

    def losses(step: int) -> Iterator[Mapping[str, Tensor]]:
        if step == stop:
            raise _Stopped
        yield {"loss": ((value - torch.randn(1)) ** 2).sum()}

    settings: dict[str, Any] = {
        "name": "test", "parameters": [value], "tensors": {"value": value},
        "optimizer": torch.optim.AdamW([value], lr=0.0), "losses": losses, "steps": 6, "rate": lambda step: 0.1,
        "clip_norm": 10.0, "checkpoints": folder, "checkpoint_steps": 1, **changes,
    }  # fmt: skip
    accelerator = new_accelerator("fp32")
    settings["optimizer"] = accelerator.prepare(settings["optimizer"])
    return value, Task(**settings)


def _run(task: Task, seed: int = 0) -> loop.LoopResult:
    return run_loop(task, new_accelerator("fp32"), seed)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resumed_training_gives_the_same_value(tmp_path: Path, stop: int) -> None:
    full, task = _task(tmp_path / "full")
    _run(task)
    _, task = _task(tmp_path / "parts", stop)
    with pytest.raises(_Stopped):
        _run(task)
    resumed, task = _task(tmp_path / "parts")
    _run(task)
    assert torch.equal(full, resumed) and not torch.equal(full, torch.tensor([4.0]))


def test_values_of_begin_are_kept_when_resuming(tmp_path: Path) -> None:
    calls: list[int] = []

    def begin() -> dict[str, int]:
        calls.append(1)
        return {"before": 7}

    _, task = _task(tmp_path, stop=2, begin=begin)
    with pytest.raises(_Stopped):
        _run(task)
    _, task = _task(tmp_path, begin=begin)
    assert _run(task).kept["before"] == 7 and calls == [1]


def test_checkpoint_of_another_training_raises(tmp_path: Path) -> None:
    _, task = _task(tmp_path, stop=2, key="one")
    with pytest.raises(_Stopped):
        _run(task)
    _, task = _task(tmp_path, key="two")
    with pytest.raises(ArtifactError, match="other settings or data"):
        _run(task)


def test_checkpoints_are_written_by_time_if_checkpoint_steps_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, task = _task(tmp_path, checkpoint_steps=None)
    _run(task)
    assert not tmp_path.joinpath("step-000006").exists()
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    _run(task)
    assert tmp_path.joinpath("step-000006").exists()


def test_gradient_is_clipped_and_the_rate_is_scaled_by_the_share_of_the_group(tmp_path: Path) -> None:
    value = nn.Parameter(torch.tensor([4.0]))
    sgd = torch.optim.SGD([{"params": [value], "share": 0.5}], lr=0.0)

    def losses(step: int) -> Iterator[Mapping[str, Tensor]]:
        yield {"loss": 100 * value.sum()}

    _, task = _task(
        tmp_path, parameters=[value], tensors={"value": value}, optimizer=sgd, losses=losses, steps=1, clip_norm=2.0
    )
    _run(task)
    assert float(value.detach()) == pytest.approx(4 - 0.1 * 0.5 * 2.0, abs=1e-5)


def test_after_step_runs_after_the_optimizer_step(tmp_path: Path) -> None:
    completed: list[int] = []

    @torch.no_grad()
    def limit(steps: int) -> None:
        completed.append(steps)
        value.clamp_(min=3.95)

    value, task = _task(tmp_path, after_step=limit)
    _run(task)
    assert float(value.detach()) == pytest.approx(3.95)
    assert completed == [1, 2, 3, 4, 5, 6]


def test_finished_training_takes_no_more_steps_even_when_resumed(tmp_path: Path) -> None:
    completed: list[int] = []
    for _ in range(2):
        _, task = _task(tmp_path, after_step=completed.append, is_finished=lambda: len(completed) == 3)
        assert _run(task).steps == 3
    assert completed == [1, 2, 3]


@pytest.mark.parametrize("checkpoint_steps", [1, 100])
def test_non_finite_loss_raises_with_the_step_and_the_last_good_checkpoint_is_kept(
    tmp_path: Path, checkpoint_steps: int
) -> None:
    def losses(step: int) -> Iterator[Mapping[str, Tensor]]:
        yield {"loss": value.sum() * (torch.nan if step == 3 else 1.0), "other": value.sum()}

    value, task = _task(tmp_path, losses=losses, checkpoint_steps=checkpoint_steps)
    with pytest.raises(ArtifactError, match=r"loss is nan in step 4: the training has diverged"):
        _run(task)
    assert [path.name for path in tmp_path.iterdir()] == (["step-000003"] if checkpoint_steps == 1 else [])


@pytest.mark.parametrize("checkpoint_steps", [1, 100])
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, checkpoint_steps: int) -> None:
    def losses(number: int) -> Iterator[Mapping[str, Tensor]]:
        zero = value - value.detach()
        yield {"loss": (zero.sqrt() if number == 3 else zero).sum()}  # 0, with an infinite gradient in step 4

    value, task = _task(tmp_path, losses=losses, checkpoint_steps=checkpoint_steps, steps=4)
    with pytest.raises(ArtifactError, match=r"A weight is not finite after step 4: the training has diverged"):
        _run(task)
    assert [path.name for path in tmp_path.iterdir()] == (["step-000003"] if checkpoint_steps == 1 else [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux that is a full disk")
def test_full_disk_under_the_log_is_a_message(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"

    def fill(step: int) -> None:
        if step == 5:
            log.unlink()
            log.symlink_to("/dev/full")

    _, task = _task(tmp_path / "checkpoints", steps=12, log=log, after_step=fill)
    with pytest.raises(ArtifactError, match=r"Cannot write .*log\.jsonl: .*No space left"):
        _run(task)


def test_line_of_the_log_that_was_not_written_whole_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    _, task = _task(tmp_path / "checkpoints", steps=30, stop=25, log=log)
    with pytest.raises(_Stopped):
        _run(task)
    whole = log.read_text()
    log.write_text(whole[:-10])
    _, task = _task(tmp_path / "checkpoints", steps=30, log=log)
    _run(task)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [10, 30]
    assert log.read_text().startswith(whole.splitlines()[0])
