"""What the detector learns from: images, base boxes and the teacher's regions, in an order that can be resumed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ezsd.data.samples import AnnotatedImage, ImageSet, masks_of, read_image
from ezsd.data.target_store import Regions, TargetStore
from ezsd.data.transforms import Sample, flip, resize
from ezsd.recipe import TrainConfig
from ezsd.training.sampler import BatchPlan, Key, PlannedBatches
from ezsd.utils.seeding import seeded

Example = tuple[Tensor, dict[str, Tensor]]


class TrainingDataset(Dataset[Example]):
    """Images with base boxes and regions to distil.

    Args:
        images: the train part, base boxes only.
        store: the teacher's regions; None when the training needs none.
        embedding_dim: D of the teacher.
        config: of the training.
        image_size: short and longest long side of the resized images.
        masks: whether to make masks.
    """

    def __init__(
        self,
        images: ImageSet,
        store: TargetStore | None,
        embedding_dim: int,
        config: TrainConfig,
        image_size: tuple[int, int],
        masks: bool,
    ) -> None:
        self.images = images
        self.store = store
        self.embedding_dim = embedding_dim
        self.config = config
        self.image_size = image_size
        self.masks = masks

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> Example:
        """Return the image [3, H, W] uint8 and its target."""
        index, seed = key
        image = self.images[index]
        regions = self._regions(image)
        masks = masks_of(image) if self.masks else None
        sample = resize(Sample.of(read_image(image), image.boxes, image.labels, masks, regions.boxes), self.image_size)
        if torch.rand((), generator=seeded(seed)) < self.config.flip:
            sample = flip(sample)
        return sample.image.as_subclass(Tensor), training_target(sample, image.crowd, regions, self.config)

    def _regions(self, image: AnnotatedImage) -> Regions:
        if self.store is None:
            return Regions.empty(self.embedding_dim)
        return best_regions(self.store[image.image_id], self.config.proposals_per_image)


def best_regions(regions: Regions, proposals: int) -> Regions:
    """Keep the base boxes, then the ``proposals`` best-scored CLIP proposals, best first."""
    order = regions.scores.masked_fill(regions.is_base_box, math.inf).argsort(descending=True, stable=True)
    return regions[order[: int(regions.is_base_box.sum()) + proposals]]


def training_target(sample: Sample, crowd: Tensor, regions: Regions, config: TrainConfig) -> dict[str, Tensor]:
    """Return what the detector learns from one image (see ``ZeroShotRoIHeads.forward``).

    Args:
        sample: resized and flipped; its proposals are the boxes of ``regions``.
        crowd: [N] bool; crowd boxes are no objects, negatives on them are ignored.
        regions: what the teacher says; base boxes first, then proposals, best first.
        config: how much is distilled and ignored.
    """
    distilled = len(regions.boxes) if config.distillation_weight else 0
    target = {
        "boxes": sample.boxes[~crowd],
        "labels": sample.labels[~crowd],
        "crowd_boxes": sample.boxes[crowd],
        "ignored_boxes": sample.proposals[~regions.is_base_box][: config.ignore_top],
        "distill_boxes": sample.proposals[:distilled],
        "distill_embeddings": regions.embeddings[:distilled].float(),
        "distill_weights": mean_one(regions.weights[:distilled]),
    }
    if sample.masks is not None:
        target["masks"] = sample.masks[~crowd]
    return target


def mean_one(weights: Tensor) -> Tensor:
    """Scale non-negative weights [N] of one image so that their mean is 1 (all zero: all become 1)."""
    if weights.numel() == 0:
        return weights
    mean = weights.mean()
    return torch.where(mean > 1e-9, weights / mean.clamp(min=1e-9), torch.ones_like(weights))


def load_batches(dataset: TrainingDataset, plan: BatchPlan, start: int, stop: int, workers: int) -> DataLoader[Example]:
    """Load the batches of the steps start..stop in ``workers`` processes."""
    sampler: Any = PlannedBatches(plan, start, stop)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=list,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else starting it draws from the random numbers of the step
    )
