"""Which images each process sees at each step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ezsd.utils.seeding import seeded

Key = tuple[int, int]  # index of the image, seed of its augmentation


@dataclass(frozen=True)
class BatchPlan:
    """Which images each process sees at each step: a function of the seed and the step alone.

    Attributes:
        images: number of images.
        seed: of the run.
        batch_size: images a process and batch.
        accumulate: batches a step.
        processes, process: how many there are, and which this one is.
    """

    images: int
    seed: int
    batch_size: int
    accumulate: int
    processes: int = 1
    process: int = 0

    @property
    def images_per_step(self) -> int:
        """Images that all processes see in one step."""
        return self.batch_size * self.accumulate * self.processes

    def steps(self, epochs: float) -> int:
        """Return how many steps so many epochs take."""
        return max(1, math.ceil(self.images * epochs / self.images_per_step))

    def batches(self, start: int, stop: int) -> Iterator[list[Key]]:
        """Yield this process's batches of the steps start..stop, ``accumulate`` a step."""
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
    """A batch sampler over planned batches (DataLoader wants something to iterate and to count)."""

    def __init__(self, plan: BatchPlan, start: int, stop: int) -> None:
        self.plan, self.start, self.stop = plan, start, stop

    def __iter__(self) -> Iterator[list[Key]]:
        return self.plan.batches(self.start, self.stop)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.plan.accumulate
