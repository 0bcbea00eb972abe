"""The training loop: steps, learning rate, mixed precision, gradient clipping, log, checkpoints, resuming.

All trainings use it: norms of the teacher (stage adapt), RPN (stage propose), detector (stage train) and the pocket
teacher.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import reduce
from torch import Tensor, nn

from ezsd.errors import ArtifactError
from ezsd.utils.checkpoint import load_latest, save_checkpoint
from ezsd.utils.files import append_text, read_json_lines, write_text
from ezsd.utils.progress import track
from ezsd.utils.seeding import seeded

LOG_STEPS = 10
CHECKPOINT_SECONDS = 30.0
_LOWER = "The last checkpoint is kept. Lower train.lr or set train.precision: fp32, and start over with --overwrite."

OnStep = Callable[[float], bool]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """The model, losses and settings of one training.

    Attributes:
        name: Title of the training in the progress display.
        parameters: Trained parameters; the norm of their gradients is clipped.
        tensors: Tensors that change during training, by name; they are saved in checkpoints and restored in place.
        optimizer: Optimizer of the parameters, prepared by the accelerator.
        losses: ``losses(step)`` yields the losses of each batch of a step, by name; their sum is minimized.
        steps: Total number of steps.
        rate: ``rate(step)`` is the learning rate; it is multiplied by the ``share`` of a parameter group (default 1).
        clip_norm: Maximum norm of the gradients.
        checkpoints: Folder of the checkpoints.
        batches: Number of batches per step; gradients and logged losses are means over batches.
        steps_per_epoch: Steps per epoch, for the log.
        log: File that gets one JSON line every 10 steps; None = no file.
        checkpoint_steps: Steps between checkpoints; None = one every 30 seconds.
        key: Digest of everything the result depends on; a checkpoint with another key raises. Empty = not checked.
        begin: Called if no checkpoint exists; the JSON values it returns are kept in checkpoints and in the result.
        after_step: Called after each optimizer step with the number of completed steps.
        is_finished: Called before each step; the training ends early if it returns True.
        sum_gradients: Whether to sum gradients and losses over processes, for models that are not wrapped in DDP.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    tensors: Mapping[str, Tensor]
    optimizer: Any
    losses: Callable[[int], Iterator[Mapping[str, Tensor]]]
    steps: int
    rate: Callable[[int], float]
    clip_norm: float
    checkpoints: Path
    batches: int = 1
    steps_per_epoch: float = 1.0
    log: Path | None = None
    checkpoint_steps: int | None = None
    key: str = ""
    begin: Callable[[], Mapping[str, Any]] = dict
    after_step: Callable[[int], None] | None = None
    is_finished: Callable[[], bool] | None = None
    sum_gradients: bool = False


@dataclass(frozen=True)
class LoopResult:
    """The result of :func:`run_loop`.

    Attributes:
        seconds: Duration of this call and of earlier, interrupted calls.
        earlier_seconds: Duration of earlier, interrupted calls.
        steps: Number of completed steps, including those of earlier calls.
        kept: Values returned by ``begin`` when the training started.
    """

    seconds: float
    earlier_seconds: float
    steps: int
    kept: Mapping[str, Any] = field(default_factory=dict)


def run_loop(task: Task, accelerator: Accelerator, seed: int, on_step: OnStep | None = None) -> LoopResult:
    """Train in place, resuming from the last checkpoint if one exists.

    The random numbers of a step depend only on the seed, the step and the process, so a resumed training gives the
    same weights as an uninterrupted one.

    Args:
        task: The training to run.
        accelerator: The accelerator of this training.
        seed: The seed of the run.
        on_step: Called after each step with its duration in seconds; the loop stops if it returns False.

    Raises:
        ArtifactError: If a checkpoint belongs to another training, a loss is not finite, or the disk is full.
    """
    began = saved = time.monotonic()
    found = load_latest(task.checkpoints, task.tensors, task.optimizer)
    start, kept = found or (0, {"key": task.key, "seconds": 0.0})
    if task.key and kept["key"] != task.key:
        raise ArtifactError(
            f"{task.checkpoints} contains checkpoints of a training with other settings or data. Restore "
            "those settings, remove the folder, or start over with --overwrite or another --out."
        )
    if found is None:
        kept |= task.begin()
    elif accelerator.scaler is not None and kept.get("scaler"):
        accelerator.scaler.load_state_dict(kept["scaler"])
    completed, log = start, TrainingLog(task.log, start, accelerator)
    with track(task.steps, task.name, start) as advance:
        for step in range(start, task.steps):
            if task.is_finished is not None and task.is_finished():
                break
            step_began = time.monotonic()
            torch.manual_seed(seeded(seed, step, accelerator.process_index).initial_seed())
            _set_rates(task.optimizer, task.rate(step))
            losses, completed = _take_step(task, accelerator, step), step + 1
            advance(1, log.add(step + 1, losses, task.rate(step), (step + 1) / task.steps_per_epoch))
            now = time.monotonic()
            if accelerator.is_main_process and _is_due(task, step + 1, now - saved):
                log.check()
                _check_weights(task, step + 1)
                save_checkpoint(
                    task.checkpoints, step + 1, task.tensors, task.optimizer, _state(kept, accelerator, now - began)
                )
                saved = now
            if on_step is not None and not on_step(now - step_began):
                break
    log.close()
    _check_weights(task, completed)
    accelerator.wait_for_everyone()
    return LoopResult(kept["seconds"] + time.monotonic() - began, kept["seconds"], completed, kept)


def _check_weights(task: Task, step: int) -> None:
    """Raise ArtifactError if a trained weight is not finite; a finite loss can have such gradients."""
    finite = [parameter.detach().isfinite().all() for parameter in task.parameters]
    if not bool(torch.stack(finite).all()):
        raise ArtifactError(f"A weight is not finite after step {step}: the training has diverged. {_LOWER}")


def _is_due(task: Task, step: int, seconds: float) -> bool:
    if task.checkpoint_steps is None:
        return seconds > CHECKPOINT_SECONDS
    return step % task.checkpoint_steps == 0


def _state(kept: Mapping[str, Any], accelerator: Accelerator, seconds: float) -> dict[str, Any]:
    scaler = {} if accelerator.scaler is None else {"scaler": accelerator.scaler.state_dict()}
    return {**kept, **scaler, "seconds": kept["seconds"] + seconds}


def _take_step(task: Task, accelerator: Accelerator, step: int) -> dict[str, Tensor]:
    """Run one optimizer step and return the mean losses of its batches."""
    means: dict[str, Tensor] = {}
    for losses in task.losses(step):
        accelerator.backward(torch.stack(list(losses.values())).sum() / task.batches)
        for name, value in losses.items():
            means[name] = means.get(name, torch.zeros_like(value)) + value.detach() / task.batches
    if task.sum_gradients:
        for parameter in task.parameters:
            if parameter.grad is not None:
                parameter.grad = reduce(parameter.grad, "sum")
        means = {name: reduce(value, "sum") for name, value in means.items()}
    accelerator.clip_grad_norm_(task.parameters, task.clip_norm)
    task.optimizer.step()
    task.optimizer.zero_grad()
    if task.after_step is not None:
        task.after_step(step + 1)
    return means


def _set_rates(optimizer: Any, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)


class TrainingLog:
    """Logs the mean losses of all processes every 10 steps as JSON lines and to the trackers of the accelerator.

    Args:
        path: File of the JSON lines; None = no file.
        start: Number of completed steps; lines that an interrupted run logged after its last checkpoint are removed.
        accelerator: The accelerator of the training; its main process writes.
    """

    def __init__(self, path: Path | None, start: int, accelerator: Accelerator) -> None:
        self.path = path if accelerator.is_main_process else None
        self.accelerator = accelerator
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.first_wrong = torch.zeros((), dtype=torch.long)  # a tensor, so that no step waits for it
        self.last = ""
        if self.path is not None:
            lines = read_json_lines(self.path) if start and self.path.exists() else []
            kept = [json.dumps(line) for line in lines if line["step"] <= start]
            write_text(self.path, "".join(f"{line}\n" for line in kept))
        if accelerator.log_with:
            accelerator.init_trackers("ezsd", init_kwargs={"tensorboard": {"purge_step": start + 1}})

    def add(self, step: int, losses: Mapping[str, Tensor], rate: float, epoch: float) -> str:
        """Add the losses of one step and return a short text with the last logged loss."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        self.count += 1
        wrong = ~torch.stack(list(losses.values())).isfinite().all()
        self.first_wrong = self.first_wrong.to(wrong.device)
        self.first_wrong = torch.where(wrong & (self.first_wrong == 0), step, self.first_wrong)
        if step % LOG_STEPS == 0:
            self._flush(step, rate, epoch)
        return self.last

    def check(self) -> None:
        """Raise ArtifactError if the losses since the last line are not finite."""
        for name, value in self.sums.items():
            if not math.isfinite(float(value)):
                raise ArtifactError(
                    f"{name} is {float(value)} in step {int(self.first_wrong)}: the training has diverged. {_LOWER}"
                )

    def close(self) -> None:
        """Check the last losses and close the trackers."""
        self.check()
        if self.accelerator.log_with:
            self.accelerator.end_training()

    def _flush(self, step: int, rate: float, epoch: float) -> None:
        self.check()
        means = {name: float(reduce(value, "mean")) / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        total = sum(means.values())
        self.last = f"loss {total:.3f}"
        line = {"step": step, "epoch": round(epoch, 3), "lr": rate, "loss": total, **means}
        logger.debug("step %d: %s", step, line)
        if self.path is not None:
            append_text(self.path, json.dumps(line) + "\n")
        if self.accelerator.log_with:
            values = {**means, "loss": total, "lr": rate}
            self.accelerator.log({f"train/{name}": value for name, value in values.items()}, step)
