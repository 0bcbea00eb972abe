"""The one training loop, of the detector (stage train) and of the RPN (stage propose): steps, rates, log, resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from ezsd.errors import ArtifactError
from ezsd.recipe import TrainConfig
from ezsd.training.dataset import Example, TrainingDataset, load_batches
from ezsd.training.sampler import BatchPlan
from ezsd.utils.checkpoint import load_latest, save_checkpoint
from ezsd.utils.files import write_text
from ezsd.utils.progress import say, track
from ezsd.utils.seeding import seeded

LOG_STEPS = 10
_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def train_model(
    model: nn.Module,
    dataset: TrainingDataset,
    folder: Path,
    name: str,
    seed: int,
    workers: int,
    inputs: Sequence[Tensor] = (),
    loss_weights: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Train a model in place; go on from the last checkpoint when there is one.

    Args:
        model: ``forward(pictures, targets, *inputs)`` returns losses by name; it is moved to the device.
        dataset: its ``settings`` are those of the training.
        folder: gets checkpoints/, log.jsonl and tensorboard/.
        name: what is trained, for the user.
        seed: of the run; a step's random numbers come from it and the step alone.
        workers: processes that read photos.
        inputs: what the model needs beside pictures and targets.
        loss_weights: factors on losses by name; 1 where none is given.

    Returns:
        steps, photos, seconds (of all runs), images_per_second.

    Raises:
        ArtifactError: a checkpoint is of another shape, a loss is not finite, or the disk is full.
    """
    config = dataset.config
    AcceleratorState._reset_state()  # it would keep the precision of an earlier training of this process
    accelerator = Accelerator(mixed_precision=_PRECISION[config.precision])
    plan = BatchPlan(
        len(dataset), seed, config.batch_size, config.accumulate,
        accelerator.num_processes, accelerator.process_index,
    )  # fmt: skip
    steps = plan.steps(config.epochs)
    wrapped, optimizer = accelerator.prepare(model, build_optimizer(model, config))
    inputs, tensors = [tensor.to(accelerator.device) for tensor in inputs], model.state_dict()
    start, extra = load_latest(folder / "checkpoints", tensors, optimizer) or (0, {"seconds": 0.0})
    log = TrainingLog(folder, start, enabled=accelerator.is_main_process)
    batches = iter(load_batches(dataset, plan, start, steps, workers))
    began = time.monotonic() - extra["seconds"]
    wrapped.train()
    say(f"{name}: {steps} steps of {plan.images_per_step} photos ({config.epochs:g} epochs of {len(dataset)} photos)")
    with track(steps, name, start) as advance:
        for step in range(start, steps):
            torch.manual_seed(seeded(seed, step, accelerator.process_index).initial_seed())
            rate = _set_rates(optimizer, config.lr, rate_factor(step, steps, config))
            losses = _step(accelerator, wrapped, optimizer, batches, inputs, config, loss_weights or {})
            advance(1, log.add(step + 1, losses, rate, (step + 1) * plan.images_per_step / len(dataset)))
            if accelerator.is_main_process and (step + 1) % config.checkpoint_steps == 0:
                log.check()
                saved = {"seconds": time.monotonic() - began}
                save_checkpoint(folder / "checkpoints", step + 1, tensors, optimizer, saved)
    log.close()
    accelerator.wait_for_everyone()
    seconds = time.monotonic() - began
    shown = steps * plan.images_per_step
    return {"steps": steps, "images": shown, "seconds": seconds, "images_per_second": shown / seconds}


def _step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Any,
    batches: Iterator[list[Example]],
    inputs: Sequence[Tensor],
    config: TrainConfig,
    loss_weights: Mapping[str, float],
) -> dict[str, Tensor]:
    """Do one optimizer step over ``accumulate`` batches; return the mean losses."""
    means: dict[str, Tensor] = {}
    for _ in range(config.accumulate):
        batch = next(batches)
        images = [image.to(accelerator.device, non_blocking=True) for image, _ in batch]
        targets = [
            {name: value.to(accelerator.device, non_blocking=True) for name, value in target.items()}
            for _, target in batch
        ]
        with accelerator.autocast():
            losses: dict[str, Tensor] = model(images, targets, *inputs)
        losses = {name: value * loss_weights.get(name, 1.0) for name, value in losses.items()}
        loss = torch.stack(list(losses.values())).sum() / config.accumulate
        accelerator.backward(loss)
        for name, value in losses.items():
            means[name] = means.get(name, torch.zeros_like(value)) + value.detach() / config.accumulate
    accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    return means


def rate_factor(step: int, steps: int, config: TrainConfig) -> float:
    """Return the factor on the learning rate at ``step`` (0-based) of ``steps``: warm-up, then step or cosine."""
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * step / steps))
    return warmup * 0.1 ** sum(step >= milestone * steps for milestone in config.milestones)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer: the backbone has its own learning rate; norms, biases and scalars do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = config.backbone_lr if name.startswith("backbone.body.") else 1.0
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((share, decay), []).append(parameter)
    options = [
        {"params": parameters, "share": share, "weight_decay": decay} for (share, decay), parameters in groups.items()
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(options, lr=config.lr)
    return torch.optim.SGD(options, lr=config.lr, momentum=0.9)


def _set_rates(optimizer: Any, lr: float, factor: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr * factor * group["share"]
    return lr * factor


class TrainingLog:
    """Means of the losses every few steps, as JSON lines and for TensorBoard.

    Args:
        folder: of the stage.
        start: steps done before; what an interrupted run logged after its last checkpoint is dropped.
        enabled: False in all processes but the first.
    """

    def __init__(self, folder: Path, start: int, enabled: bool) -> None:
        self.path = folder / "log.jsonl"
        self.enabled = enabled
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.last = ""
        if enabled:
            lines = self.path.read_text().splitlines() if start and self.path.exists() else []
            kept = [line for line in lines if json.loads(line)["step"] <= start]
            write_text(self.path, "".join(f"{line}\n" for line in kept))
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def add(self, step: int, losses: dict[str, Tensor], rate: float, epoch: float) -> str:
        """Add one step's losses; return a short text about the last means."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        self.count += 1
        if step % LOG_STEPS == 0:
            self._flush(step, rate, epoch)
        return self.last

    def check(self) -> None:
        """Raise ArtifactError when the losses since the last line are not finite (before they are kept)."""
        for name, value in self.sums.items():
            if not math.isfinite(float(value)):
                raise ArtifactError(
                    f"{name} is {float(value)}: the training has diverged. The last checkpoint is kept. Lower "
                    "train.lr, or use train.precision: fp32, and start anew with --overwrite."
                )

    def close(self) -> None:
        """Close TensorBoard's file."""
        self.check()
        if self.enabled:
            self.board.close()

    def _flush(self, step: int, rate: float, epoch: float) -> None:
        self.check()
        means = {name: float(value) / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        total = sum(means.values())
        self.last = f"loss {total:.3f}"
        if self.enabled:
            line = {"step": step, "epoch": round(epoch, 3), "lr": rate, "loss": total, **means}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            for name, value in {**means, "loss": total, "lr": rate}.items():
                self.board.add_scalar(f"train/{name}", value, step)
