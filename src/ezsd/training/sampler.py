"""The images of each batch, by step and process; images with rare names can be shown more often."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ezsd.data.samples import ImageSet
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
        repeats: How often each image is shown in a pass, on average; empty = every image once.
        upright: Which images are higher than wide. Batches hold images of one orientation where possible, because all
            images of a batch are padded to the largest height and width. Empty = not considered.
    """

    images: int
    seed: int
    batch_size: int
    accumulate: int
    processes: int = 1
    process: int = 0
    repeats: tuple[float, ...] = ()
    upright: tuple[bool, ...] = ()

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
        length = max(1, round(sum(self.repeats))) if self.repeats else self.images
        for number in range(start * self.accumulate, stop * self.accumulate):
            first = (number * self.processes + self.process) * self.batch_size
            batch = []
            for position in range(first, first + self.batch_size):
                epoch, place = divmod(position, length)
                if order[0] != epoch:
                    order = (epoch, self._by_orientation(self._order(epoch, length), epoch))
                batch.append((order[1][place], self.seed * 1_000_003 + position))
            yield batch

    def _order(self, epoch: int, length: int) -> list[int]:
        """Return the images of a pass in random order.

        The number of times that an image is shown is its repeat factor, rounded up or down at random (systematic
        sampling), so that all passes have the same length.
        """
        chance = seeded(self.seed, epoch)
        order = torch.randperm(length, generator=chance)
        if not self.repeats:
            return order.tolist()
        ends = torch.tensor(self.repeats, dtype=torch.float64).cumsum(0)
        ends = ends * (length / ends[-1]) + torch.rand((), generator=chance, dtype=torch.float64)
        places = ends.floor().long().clamp(max=length)
        places[-1] = length
        counts = places.diff(prepend=torch.zeros(1, dtype=torch.int64))
        return torch.arange(self.images).repeat_interleave(counts)[order].tolist()

    def _by_orientation(self, order: list[int], epoch: int) -> list[int]:
        """Reorder the images of a pass so that as many of its batches as possible have one orientation."""
        if not any(self.upright):
            return order
        size, length = self.batch_size, len(order)
        begun = -epoch * length % size  # images that complete the last batch of the pass before
        groups = [[index for index in order[begun:] if self.upright[index] == upright] for upright in (False, True)]
        left = [index for group in groups for index in group[len(group) - len(group) % size :]]
        batches = [group[at : at + size] for group in (*groups, left) for at in range(0, len(group) - size + 1, size)]
        shuffled = torch.randperm(len(batches), generator=seeded(self.seed, epoch, size)).tolist()
        inner = [index for number in shuffled for index in batches[number]]
        return order[:begun] + inner + left[len(left) - len(left) % size :]


class PlannedBatches:
    """Batch sampler for a DataLoader, over the batches of a plan."""

    def __init__(self, plan: BatchPlan, start: int, stop: int) -> None:
        self.plan, self.start, self.stop = plan, start, stop

    def __iter__(self) -> Iterator[list[Key]]:
        return self.plan.batches(self.start, self.stop)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.plan.accumulate


def repeat_factors(images: ImageSet, threshold: float) -> tuple[float, ...]:
    """Return how often each image is shown in a pass so that rare names are seen more often.

    Repeat-factor sampling (Gupta et al. 2019, "LVIS"): a name in a fraction f of the images has the factor
    max(1, sqrt(threshold / f)), and an image has the largest factor of its names. Crowd boxes do not count.

    Args:
        images: The train part.
        threshold: Names in a smaller fraction of the images are repeated (0.001 for LVIS).
    """
    found = [image.labels[~image.crowd].unique() for image in images]
    counts = torch.bincount(torch.cat(found), minlength=len(images.names) + 1)
    factors = (threshold * len(images) / counts.clamp(min=1)).sqrt().clamp(min=1.0)
    return tuple(float(factors[labels].max()) if len(labels) else 1.0 for labels in found)


def expected_boxes(images: ImageSet, repeats: tuple[float, ...]) -> torch.Tensor:
    """Return the expected number of boxes of each name in a pass, [C]; crowd boxes do not count.

    Args:
        images: The train part.
        repeats: The repeat factor of each image; empty = every image once.
    """
    total = torch.zeros(len(images.names) + 1)
    for image, factor in zip(images, repeats or (1.0,) * len(images), strict=True):
        total += factor * torch.bincount(image.labels[~image.crowd], minlength=len(total))
    return total[1:]
