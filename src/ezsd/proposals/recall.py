"""Recall of novel objects by proposals: the quality of stage propose, measured without training a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ezsd.data.categories import CategorySplit
from ezsd.data.samples import ImageSet, images_with, with_names
from ezsd.proposals.candidates import anchor_grid
from ezsd.proposals.proposer import Proposer
from ezsd.recipe import ProposeConfig
from ezsd.utils.progress import track
from ezsd.utils.seeding import seeded

RECALL_AT = (100, 300)


def novel_recall(
    proposals: Mapping[int, Tensor], images: ImageSet, novel: Sequence[str], at: Sequence[int] = RECALL_AT
) -> dict[str, float | None]:
    """Return the fraction of novel boxes that overlap one of the best proposals of their image (IoU >= 0.5).

    Args:
        proposals: Boxes ``[N, 4]`` xyxy by image id, in descending order of score. Images without an entry are ignored.
        images: Images with boxes of the novel names. Crowd boxes are ignored.
        novel: The novel names.
        at: The numbers of proposals per image to evaluate.

    Returns:
        ``{"novel_recall_at_100": ...}`` in 0..1; None if the images have no novel boxes.
    """
    met = dict.fromkeys(at, 0)
    total = 0
    for image in images:
        if image.image_id not in proposals:
            continue
        boxes = with_names(image, images.names, novel).boxes
        total += len(boxes)
        overlaps = box_iou(boxes, proposals[image.image_id])
        for count in at:
            met[count] += int((overlaps[:, :count] >= 0.5).any(1).sum())
    return {f"novel_recall_at_{count}": met[count] / total if total else None for count in at}


def recall_config(config: ProposeConfig, at: Sequence[int] = RECALL_AT) -> ProposeConfig:
    """Return the section ``propose`` with which recall is measured.

    Crops only reorder the boxes that stage propose keeps. If these are not more than the smallest of ``at``, crops do
    not change the recall, so nothing is cropped.
    """
    more = {"keep": max(at)}
    if config.scoring in ("dense", "regions") and config.keep <= min(at):
        more["crop_rank"] = 0
    return config.model_copy(update=more)


def measure_proposals(
    proposer: Proposer, images: ImageSet, split: CategorySplit, at: Sequence[int] = RECALL_AT
) -> dict[str, float | None]:
    """Return the novel recall of proposals on images with boxes of all names.

    Only images with a novel box are used. The proposer receives their base boxes, as for training images.

    Args:
        proposer: The proposer, with the recipe's config; see :func:`recall_config`.
        images: Validation images with base and novel boxes.
        split: The base and novel names.
        at: The numbers of proposals per image to evaluate.

    Returns:
        The result of :func:`novel_recall`.
    """
    chosen = [with_names(image, images.names, split.base) for image in images_with(images, split.novel)]
    found = replace(proposer, config=recall_config(proposer.config, at)).rank(chosen)
    boxes: dict[int, Tensor] = {}
    with track(len(chosen), "Recall of proposals") as advance:
        for image, proposals in zip(chosen, found, strict=True):
            boxes[image.image_id] = proposals
            advance(1, "")
    return novel_recall(boxes, images, split.novel, at)


def random_recall(
    images: ImageSet, split: CategorySplit, config: ProposeConfig, at: Sequence[int] = RECALL_AT
) -> dict[str, float | None]:
    """Return the novel recall of random boxes of the anchor grid, as a chance level."""
    boxes: dict[int, Tensor] = {}
    for image in images_with(images, split.novel):
        grid = anchor_grid(image.height, image.width, config)
        order = torch.randperm(len(grid), generator=seeded(0, image.image_id))
        boxes[image.image_id] = grid[order[: max(at)]]
    return novel_recall(boxes, images, split.novel, at)
