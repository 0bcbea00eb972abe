"""Training data of the detector: images, base boxes and regions of the teacher, in a resumable order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ezsd.data.samples import AnnotatedImage, ImageSet, have_mask, masks_of, read_image
from ezsd.data.target_store import Regions, TargetStore
from ezsd.data.transforms import Sample, flip, jitter_color, jitter_scale, resize
from ezsd.recipe import TrainConfig
from ezsd.training.sampler import BatchPlan, Key, PlannedBatches
from ezsd.utils.seeding import seeded

Example = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class DistilledNames:
    """The names over which the teacher's word about a region is distilled.

    Attributes:
        text: [C, D] text embeddings, base names first.
        base: The number of base names.
        logit_scale: The logit scale of the teacher.
        pseudo_score: The smallest score times weight of a proposal that is trained as an object.
    """

    text: Tensor
    base: int
    logit_scale: float
    pseudo_score: float = math.inf


class TrainingDataset(Dataset[Example]):
    """Images with base boxes and regions for distillation.

    Args:
        images: The train part, with base boxes only.
        store: Regions of the teacher; None = no regions.
        embedding_dim: D, the embedding dimension of the teacher.
        config: The recipe's section ``train``.
        image_size: Short side and maximum long side of the resized images.
        masks: Whether to create masks.
        names: The names of the target distributions of regions; None = no distributions.
    """

    def __init__(
        self,
        images: ImageSet,
        store: TargetStore | None,
        embedding_dim: int,
        config: TrainConfig,
        image_size: tuple[int, int],
        masks: bool,
        names: DistilledNames | None = None,
    ) -> None:
        self.images = images
        self.store = store
        self.embedding_dim = embedding_dim
        self.config = config
        self.image_size = image_size
        self.masks = masks
        self.names = names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> Example:
        """Return the image [3, H, W], uint8, and its target."""
        index, seed = key
        image, config, chance = self.images[index], self.config, seeded(seed)
        regions, crowd = self._regions(image), image.crowd
        masks, known = (masks_of(image), have_mask(image)) if self.masks else (None, torch.ones_like(crowd))
        sample = Sample.of(read_image(image), image.boxes, image.labels, masks, regions.boxes)
        flipped = torch.rand((), generator=chance) < config.flip
        if config.scale_jitter == (1.0, 1.0):
            sample = resize(sample, self.image_size)
        else:
            sample, boxes, proposals = jitter_scale(sample, self.image_size, config.scale_jitter, chance)
            crowd, known, regions = crowd[boxes], known[boxes], regions[proposals]
        if flipped:
            sample = flip(sample)
        if config.color_jitter:
            sample = replace(sample, image=jitter_color(sample.image, config.color_jitter, chance))
        target = training_target(sample, crowd, regions, config)
        if self.masks:
            target["has_mask"] = known[~crowd]
        if self.names is not None:
            target |= named_targets(target, sample.proposals, regions, self.names, config)
        return sample.image.as_subclass(Tensor), target

    def _regions(self, image: AnnotatedImage) -> Regions:
        if self.store is None:
            return Regions.empty(self.embedding_dim)
        return best_regions(self.store[image.image_id], self.config.proposals_per_image)


def best_regions(regions: Regions, proposals: int) -> Regions:
    """Return the base boxes, followed by the ``proposals`` CLIP proposals with the highest scores, in that order."""
    order = regions.scores.masked_fill(regions.is_base_box, math.inf).argsort(descending=True, stable=True)
    return regions[order[: int(regions.is_base_box.sum()) + proposals]]


def training_target(sample: Sample, crowd: Tensor, regions: Regions, config: TrainConfig) -> dict[str, Tensor]:
    """Return the training target of one image (see ``ZeroShotRoIHeads.losses``).

    Args:
        sample: The resized and augmented image; its proposals are the boxes of ``regions``.
        crowd: [N] bool, of the boxes of ``sample``; crowd boxes are not objects, negatives on them are ignored.
        regions: Regions of the teacher: base boxes, followed by proposals sorted by descending score.
        config: The recipe's section ``train`` (distillation weight, number of ignored proposals).
    """
    ignored = ~regions.is_base_box
    ignored &= ignored.cumsum(0) <= config.ignore_top
    distilled = len(regions.boxes) if config.distillation_weight or config.names_weight else 0
    target = {
        "boxes": sample.boxes[~crowd],
        "labels": sample.labels[~crowd],
        "crowd_boxes": sample.boxes[crowd],
        "ignored_boxes": sample.proposals[ignored],
        "distill_boxes": sample.proposals[:distilled],
        "distill_embeddings": regions.embeddings[:distilled].float(),
        "distill_weights": mean_one(regions.weights[:distilled]),
    }
    if sample.masks is not None:
        target["masks"] = sample.masks[~crowd]
    return target


def named_targets(
    target: Mapping[str, Tensor], boxes: Tensor, regions: Regions, names: DistilledNames, config: TrainConfig
) -> dict[str, Tensor]:
    """Return the part of the training target that needs the names: distributions and pseudo-boxes.

    Args:
        target: The result of :func:`training_target`.
        boxes: The boxes of ``regions`` in pixels of the resized image.
        regions: Base boxes, followed by proposals sorted by descending score.
        names: The names and the scale of the teacher.
        config: Uses base_labels, background_share and pseudo_boxes.
    """
    found = name_targets(regions, names, config.base_labels)
    distilled = len(target["distill_boxes"])
    parts = {"distill_names": weighted_targets(found[:distilled], regions.weights[:distilled], config.background_share)}
    if config.pseudo_boxes:
        confident = ~regions.is_base_box & (regions.labels > names.base)
        chosen = (confident & (regions.scores * regions.weights >= names.pseudo_score)).nonzero()[:, 0]
        parts |= {"pseudo_boxes": boxes[chosen].as_subclass(Tensor), "pseudo_names": found[chosen]}
    return parts


def least_score(scores: Tensor, count: float) -> float:
    """Return the score that the ``count`` best of ``scores`` [N] have at least; inf for a count of 0."""
    best = min(round(count), len(scores))
    return float(scores.topk(best).values[-1]) if best else math.inf


def name_targets(regions: Regions, names: DistilledNames, base_labels: float) -> Tensor:
    """Return the target distribution of each region over background and names.

    Args:
        regions: Regions of the teacher; the labels of base boxes are 1-based indices of base names.
        names: C names and the scale of the teacher.
        base_labels: Share of the one-hot label in the target of a base box; the teacher's distribution has the rest.

    Returns:
        [K, 1 + C]; the background, column 0, is 0.
    """
    found = (names.logit_scale * regions.embeddings.float() @ names.text.T).softmax(1)
    labels = F.one_hot(regions.labels.clamp(min=1, max=len(names.text)) - 1, len(names.text)).float()
    share = (base_labels * regions.is_base_box)[:, None]
    return F.pad(share * labels + (1 - share) * found, (1, 0))


def weighted_targets(targets: Tensor, weights: Tensor, background_share: float) -> Tensor:
    """Weigh the target distributions of the regions of one image, and add background to uncertain ones.

    Args:
        targets: [K, 1 + C]; the background, column 0, is 0.
        weights: [K] in 0..1, how certainly a region is an object of the names.
        background_share: Share of the remaining ``1 - weights`` that the background gets.

    Returns:
        [K, 1 + C]; the mean of the sums of the rows is 1.
    """
    background = background_share * (1 - weights)
    joined = torch.cat([background[:, None], weights[:, None] * targets[:, 1:]], dim=1)
    total = mean_one(weights + background)
    return joined / (weights + background).clamp(min=1e-9)[:, None] * total[:, None]


def mean_one(weights: Tensor) -> Tensor:
    """Scale the non-negative weights [N] of one image to mean 1; if all are zero, return ones."""
    if weights.numel() == 0:
        return weights
    mean = weights.mean()
    return torch.where(mean > 1e-9, weights / mean.clamp(min=1e-9), torch.ones_like(weights))


def shared_batch(examples: list[Example]) -> list[Example]:
    """Put a batch into shared memory. In the worker's own thread, too little of it is an error and not a hang."""
    for image, target in examples:
        for tensor in (image, *target.values()):
            tensor.share_memory_()
    return examples


def load_batches(dataset: TrainingDataset, plan: BatchPlan, start: int, stop: int, workers: int) -> DataLoader[Example]:
    """Return a loader of the batches of steps ``start`` to ``stop - 1``, with ``workers`` processes."""
    sampler: Any = PlannedBatches(plan, start, stop)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=shared_batch if workers else list,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # otherwise starting the loader consumes the random numbers of the step
    )
