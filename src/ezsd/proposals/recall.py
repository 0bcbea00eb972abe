"""How many novel objects the proposals meet: the one figure of stage propose that can be told before a training."""

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
    """Share of novel boxes that one of the best proposals of their image meets (IoU of at least 0.5).

    Args:
        proposals: by image id, boxes ``[N, 4]`` xyxy, best first; images without an entry are left out.
        images: with boxes of the novel names; crowds do not count.
        novel: names.
        at: how many proposals of an image count.

    Returns:
        ``{"novel_recall_at_100": ...}``, 0..1; None where there is no novel box.
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


def measure_proposals(proposer: Proposer, images: ImageSet, split: CategorySplit) -> dict[str, float | None]:
    """Return the novel recall of the proposals on images with boxes of all names.

    Only images with a novel box are used. Their base boxes are known to the proposer, as those of training images are.

    Args:
        proposer: Its ``keep`` is set to 300.
        images: Validation images with base and novel names.
        split: Base and novel names.

    Returns:
        As :func:`novel_recall`, at 100 and 300.
    """
    config = proposer.config.model_copy(update={"keep": max(RECALL_AT)})
    chosen = [with_names(image, images.names, split.base) for image in images_with(images, split.novel)]
    found = replace(proposer, config=config).rank(chosen)
    boxes: dict[int, Tensor] = {}
    with track(len(chosen), "Recall of proposals") as advance:
        for image, proposals in zip(chosen, found, strict=True):
            boxes[image.image_id] = proposals
            advance(1, "")
    return novel_recall(boxes, images, split.novel)


def random_recall(images: ImageSet, split: CategorySplit, config: ProposeConfig) -> dict[str, float | None]:
    """Return the novel recall of random boxes of the anchor grid, 300 for each image: the chance level."""
    boxes: dict[int, Tensor] = {}
    for image in images_with(images, split.novel):
        grid = anchor_grid(image.height, image.width, config)
        order = torch.randperm(len(grid), generator=seeded(0, image.image_id))
        boxes[image.image_id] = grid[order[: max(RECALL_AT)]]
    return novel_recall(boxes, images, split.novel)
