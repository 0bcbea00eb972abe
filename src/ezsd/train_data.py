"""What the detector learns from: photos, base boxes and the teacher's regions, in an order that can be resumed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ezsd.checkpoint import seeded
from ezsd.data.augment import Sample, flip, resize
from ezsd.data.coco import Photo, Photos, masks_of, read_picture
from ezsd.detector.losses import mean_one
from ezsd.recipe import Train as TrainSettings
from ezsd.targets import Regions, TargetStore

Key = tuple[int, int]  # index of the photo, seed of its augmentation
Example = tuple[Tensor, dict[str, Tensor]]


class TrainingPhotos(Dataset[Example]):
    """Photos with base boxes and regions to distil.

    Args:
        photos: the train part, base boxes only.
        store: the teacher's regions; None when the training needs none.
        embedding_dim: D of the teacher.
        settings: of the training.
        image_size: short and longest long side of the resized pictures.
        masks: whether to make masks.
    """

    def __init__(
        self,
        photos: Photos,
        store: TargetStore | None,
        embedding_dim: int,
        settings: TrainSettings,
        image_size: tuple[int, int],
        masks: bool,
    ) -> None:
        self.photos = photos
        self.store = store
        self.embedding_dim = embedding_dim
        self.settings = settings
        self.image_size = image_size
        self.masks = masks

    def __len__(self) -> int:
        return len(self.photos.photos)

    def __getitem__(self, key: Key) -> Example:
        """Return the picture [3, H, W] uint8 and its target."""
        index, seed = key
        photo = self.photos.photos[index]
        regions = self._regions(photo)
        masks = masks_of(photo) if self.masks else None
        sample = Sample(read_picture(photo), photo.boxes, photo.labels, masks, regions.boxes)
        sample, _ = resize(sample, self.image_size)
        if torch.rand((), generator=seeded(seed)) < self.settings.flip:
            sample = flip(sample)
        return sample.picture, training_target(sample, photo.crowd, regions, self.settings)

    def _regions(self, photo: Photo) -> Regions:
        if self.store is None:
            return Regions.empty(self.embedding_dim)
        return best_regions(self.store[photo.image_id], self.settings.proposals_per_photo)


def needs_targets(settings: TrainSettings) -> bool:
    """Tell whether a training reads what stage propose wrote."""
    return bool(settings.distillation_weight or settings.ignore_top)


def best_regions(regions: Regions, proposals: int) -> Regions:
    """Keep the base boxes, then the ``proposals`` best-scored CLIP proposals, best first."""
    order = regions.scores.masked_fill(regions.is_base_box, math.inf).argsort(descending=True, stable=True)
    return regions[order[: int(regions.is_base_box.sum()) + proposals]]


def training_target(sample: Sample, crowd: Tensor, regions: Regions, settings: TrainSettings) -> dict[str, Tensor]:
    """Return what the detector learns from one photo (see ``ZeroShotRoIHeads.forward``).

    Args:
        sample: resized and flipped; its proposals are the boxes of ``regions``.
        crowd: [N] bool; crowd boxes are no objects, negatives on them are ignored.
        regions: what the teacher says; base boxes first, then proposals, best first.
        settings: how much is distilled and ignored.
    """
    distilled = len(regions.boxes) if settings.distillation_weight else 0
    target = {
        "boxes": sample.boxes[~crowd],
        "labels": sample.labels[~crowd],
        "crowd_boxes": sample.boxes[crowd],
        "ignored_boxes": sample.proposals[~regions.is_base_box][: settings.ignore_top],
        "distill_boxes": sample.proposals[:distilled],
        "distill_embeddings": regions.embeddings[:distilled].float(),
        "distill_weights": mean_one(regions.weights[:distilled]),
    }
    if sample.masks is not None:
        target["masks"] = sample.masks[~crowd]
    return target


@dataclass(frozen=True)
class BatchPlan:
    """Which photos each process sees at each step: a function of the seed and the step alone.

    Attributes:
        photos: number of photos.
        seed: of the run.
        batch_size: photos a process and batch.
        accumulate: batches a step.
        processes, process: how many there are, and which this one is.
    """

    photos: int
    seed: int
    batch_size: int
    accumulate: int
    processes: int = 1
    process: int = 0

    @property
    def photos_per_step(self) -> int:
        """Photos that all processes see in one step."""
        return self.batch_size * self.accumulate * self.processes

    def steps(self, epochs: float) -> int:
        """Return how many steps so many epochs take."""
        return max(1, math.ceil(self.photos * epochs / self.photos_per_step))

    def batches(self, start: int, stop: int) -> Iterator[list[Key]]:
        """Yield this process's batches of the steps start..stop, ``accumulate`` a step."""
        order: tuple[int, list[int]] = (-1, [])
        for number in range(start * self.accumulate, stop * self.accumulate):
            first = (number * self.processes + self.process) * self.batch_size
            batch = []
            for position in range(first, first + self.batch_size):
                epoch, place = divmod(position, self.photos)
                if order[0] != epoch:
                    order = (epoch, torch.randperm(self.photos, generator=seeded(self.seed, epoch)).tolist())
                batch.append((order[1][place], self.seed * 1_000_003 + position))
            yield batch


class _Batches:
    """A batch sampler over planned batches (DataLoader wants something to iterate and to count)."""

    def __init__(self, plan: BatchPlan, start: int, stop: int) -> None:
        self.plan, self.start, self.stop = plan, start, stop

    def __iter__(self) -> Iterator[list[Key]]:
        return self.plan.batches(self.start, self.stop)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.plan.accumulate


def load_batches(dataset: TrainingPhotos, plan: BatchPlan, start: int, stop: int, workers: int) -> DataLoader[Example]:
    """Load the batches of the steps start..stop in ``workers`` processes."""
    sampler: Any = _Batches(plan, start, stop)
    return DataLoader(
        dataset, batch_sampler=sampler, collate_fn=list, num_workers=workers, pin_memory=torch.cuda.is_available()
    )
