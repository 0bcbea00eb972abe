"""The images of each batch, by step and process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ezsd.utils.seeding import seeded

Key = tuple[int, int]  # index of the image and seed of its augmentation


@dataclass(frozen=True)
class BatchPlan:
    """The images of each batch of each process; they depend only on the seed and the step.

    Attributes:
        images: Number of images.
        seed: The seed of the run.
        batch_size: Images per process and batch.
        accumulate: Batches per step.
        processes: Number of processes.
        process: Index of this process.
    """

    images: int
    seed: int
    batch_size: int
    accumulate: int
    processes: int = 1
    process: int = 0

    @property
    def images_per_step(self) -> int:
        """Number of images per step over all processes."""
        return self.batch_size * self.accumulate * self.processes

    def steps(self, epochs: float) -> int:
        """Return the number of steps for a number of epochs, at least 1."""
        return max(1, math.ceil(self.images * epochs / self.images_per_step))

    def batches(self, start: int, stop: int) -> Iterator[list[Key]]:
        """Yield the batches of this process for steps ``start`` to ``stop - 1``, ``accumulate`` batches per step."""
        order: tuple[int, list[int]] = (-1, [])
        for number in range(start * self.accumulate, stop * self.accumulate):
            first = (number * self.processes + self.process) * self.batch_size
            batch = []
            for position in range(first, first + self.batch_size):
                epoch, place = divmod(position, self.images)
                if order[0] != epoch:
                    order = (epoch, torch.randperm(self.images, generator=seeded(self.seed, epoch)).tolist())
                batch.append((order[1][place], self.seed * 1_000_003 + position))
            yield batch


class PlannedBatches:
    """Batch sampler for a DataLoader, over the batches of a plan."""

    def __init__(self, plan: BatchPlan, start: int, stop: int) -> None:
        self.plan, self.start, self.stop = plan, start, stop

    def __iter__(self) -> Iterator[list[Key]]:
        return self.plan.batches(self.start, self.stop)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.plan.accumulate
