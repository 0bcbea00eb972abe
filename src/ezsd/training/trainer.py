"""Train a detector or a proposal network: optimizer, learning rates, data and loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ezsd.recipe import TrainConfig
from ezsd.run_folder import TrainingFolder
from ezsd.run_metrics import TrainMetrics
from ezsd.training.dataset import TrainingDataset, load_batches
from ezsd.training.final_weights import FinalWeights, Measure
from ezsd.training.loop import OnStep, Task, run_loop
from ezsd.training.sampler import BatchPlan, repeat_factors
from ezsd.utils.device import new_accelerator
from ezsd.utils.format import counted, plural
from ezsd.utils.workers import worker_errors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Name, folder and settings of one training of a run.

    Attributes:
        name: Title of the training in the progress display.
        folder: Folder of the checkpoints and the log.
        seed: The seed of the run; the random numbers of a step depend only on the seed and the step.
        workers: Number of processes that read images.
        on_step: See :func:`ezsd.training.loop.run_loop`.
        measure: Measures a model for validation (see :class:`ezsd.training.final_weights.FinalWeights`); None = none.
    """

    name: str
    folder: TrainingFolder
    seed: int
    workers: int = 0
    on_step: OnStep | None = None
    measure: Measure | None = None


def train_model(
    model: nn.Module,
    dataset: TrainingDataset,
    job: Job,
    inputs: Sequence[Tensor] = (),
    loss_weights: Mapping[str, float] | None = None,
) -> TrainMetrics:
    """Train a model in place, resuming from the last checkpoint if one exists.

    See :class:`ezsd.training.final_weights.FinalWeights` for the weights that the model ends with.

    Args:
        model: The model; ``forward(images, targets, *inputs)`` returns losses by name. It is moved to the device.
        dataset: The training data; ``dataset.config`` is the training config.
        job: Name, folder and settings of the training.
        inputs: Further inputs of the model, in addition to images and targets.
        loss_weights: Factors of the losses by name; default 1.

    Returns:
        Steps, images, seconds (including interrupted runs) and images per second.

    Raises:
        ArtifactError: If a checkpoint does not fit the model, a loss is not finite, or the disk is full.
    """
    config, weights = dataset.config, loss_weights or {}
    accelerator = new_accelerator(config.precision, config.trackers, job.folder.tensorboard)
    plan = BatchPlan(
        len(dataset), job.seed, config.batch_size, config.accumulate,
        accelerator.num_processes, accelerator.process_index,
        repeat_factors(dataset.images, config.repeat_threshold) if config.repeat_threshold else (),
        tuple(image.height > image.width for image in dataset.images),
    )  # fmt: skip
    steps = plan.steps(config.epochs)
    wrapped, optimizer = accelerator.prepare(model, build_optimizer(model, config))
    wrapped.train()
    final = FinalWeights(model, config, steps, job.folder, job.measure)
    fixed = [tensor.to(accelerator.device) for tensor in inputs]

    def losses_of(images: list[Tensor], targets: list[dict[str, Tensor]]) -> Mapping[str, Tensor]:
        with accelerator.autocast():
            found: dict[str, Tensor] = wrapped(images, targets, *fixed)
        return {name: value * weights.get(name, 1.0) for name, value in found.items()}

    batches = _Batches(dataset, plan, job.workers, accelerator.device)
    task = Task(
        name=job.name,
        parameters=list(model.parameters()),
        tensors={**model.state_dict(), **final.tensors},
        optimizer=optimizer,
        losses=lambda step: (losses_of(*batch) for batch in batches.of_step(step)),
        steps=steps,
        rate=lambda step: config.lr * rate_factor(step, steps, config),
        clip_norm=config.clip_norm,
        checkpoints=job.folder.checkpoints,
        batches=config.accumulate,
        steps_per_epoch=len(dataset) / plan.images_per_step,
        log=job.folder.log,
        checkpoint_steps=config.checkpoint_steps,
        after_step=final.after_step,
        is_finished=final.is_finished,
    )
    shown_as = f"{config.epochs:g} {plural(config.epochs, 'epoch', 'epochs')} of {counted(len(dataset), 'image')}"
    logger.info(f"{job.name}: {counted(steps, 'step')} of {counted(plan.images_per_step, 'image')} ({shown_as})")
    with worker_errors():
        result = run_loop(task, accelerator, job.seed, job.on_step)
    final.apply()
    chosen = {} if final.best_step is None else {"best_step": final.best_step}
    shown = result.steps * plan.images_per_step
    return TrainMetrics(
        steps=result.steps, images=shown, seconds=result.seconds, images_per_second=shown / result.seconds, **chosen
    )


class _Batches:
    """The batches of consecutive steps on a device; the loader starts at the first step asked for."""

    def __init__(self, dataset: TrainingDataset, plan: BatchPlan, workers: int, device: torch.device) -> None:
        self.dataset, self.plan, self.workers, self.device = dataset, plan, workers, device
        self._loader: Iterator[Any] | None = None

    def of_step(self, step: int) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
        if self._loader is None:
            steps = self.plan.steps(self.dataset.config.epochs)
            self._loader = iter(load_batches(self.dataset, self.plan, step, steps, self.workers))
        for _ in range(self.plan.accumulate):
            yield _on_device(next(self._loader), self.device)


def _on_device(
    batch: Sequence[tuple[Tensor, Mapping[str, Tensor]]], device: torch.device
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images = [image.to(device, non_blocking=True) for image, _ in batch]
    targets = [{name: value.to(device, non_blocking=True) for name, value in target.items()} for _, target in batch]
    return images, targets


def rate_factor(step: int, steps: int, config: TrainConfig) -> float:
    """Return the factor of the learning rate at ``step`` (0-based) of ``steps``: warm-up, then step or cosine decay."""
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * step / steps))
    return warmup * 0.1 ** sum(step >= milestone * steps for milestone in config.milestones)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer; the backbone has its own learning rate, and norms, biases and scalars have no decay."""
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
