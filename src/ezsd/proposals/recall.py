"""How many novel objects the proposals meet: the one figure of stage propose that can be told before a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ezsd.data.categories import CategorySplit
from ezsd.data.samples import ImageSet, base_boxes_of, images_with
from ezsd.detector.proposal_network import ProposalNetwork
from ezsd.proposals.candidates import anchor_grid
from ezsd.proposals.proposer import rank_images
from ezsd.recipe import ProposeConfig
from ezsd.teacher import Teacher, text_embeddings
from ezsd.utils.progress import track
from ezsd.utils.seeding import seeded

RECALL_AT = (100, 300)


def novel_recall(
    proposals: Mapping[int, Tensor], images: ImageSet, novel: Sequence[str], at: Sequence[int] = RECALL_AT
) -> dict[str, float | None]:
    """Share of novel boxes that one of the best proposals of their photo meets (IoU of at least 0.5).

    Args:
        proposals: by image id, boxes ``[N, 4]`` xyxy, best first; photos without an entry are left out.
        images: with boxes of the novel names; crowds do not count.
        novel: names.
        at: how many proposals of a photo count.

    Returns:
        ``{"novel_recall_at_100": ...}``, 0..1; None where there is no novel box.
    """
    wanted = torch.tensor([False, *(name in set(novel) for name in images.names)])
    met = dict.fromkeys(at, 0)
    total = 0
    for image in images:
        if image.image_id not in proposals:
            continue
        boxes = image.boxes[wanted[image.labels] & ~image.crowd]
        total += len(boxes)
        overlaps = box_iou(boxes, proposals[image.image_id])
        for count in at:
            met[count] += int((overlaps[:, :count] >= 0.5).any(1).sum())
    return {f"novel_recall_at_{count}": met[count] / total if total else None for count in at}


def measure_proposals(
    teacher: Teacher, images: ImageSet, split: CategorySplit, config: ProposeConfig, prompt: str, device: str,
    random: bool = False, rpn: ProposalNetwork | None = None,
) -> dict[str, float | None]:  # fmt: skip
    """Novel recall of the proposals on photos with boxes of all names; only photos with a novel box are looked at.

    Their base boxes are known to the proposals, as those of the training photos are.

    Args:
        teacher: on ``device``.
        images: val photos, names = base and novel.
        split: base and novel names.
        config: section ``propose``.
        prompt: text with ``{name}``.
        device: where the teacher computes.
        random: instead of proposals, measure as many random boxes of the same grid.
        rpn: on ``device``, in evaluation mode; where the settings ask for one.

    Returns:
        As :func:`novel_recall`, at 100 and 300, whatever ``keep`` is.
    """
    config = config.model_copy(update={"keep": max(RECALL_AT)})
    chosen = images_with(images, split.novel)
    boxes: dict[int, Tensor] = {}
    if random:
        for image in chosen:
            grid = anchor_grid(image.height, image.width, config)
            order = torch.randperm(len(grid), generator=seeded(0, image.image_id))
            boxes[image.image_id] = grid[order[: config.keep]]
        return novel_recall(boxes, images, split.novel)
    text = text_embeddings(teacher, split.names, prompt)
    base_boxes = base_boxes_of(chosen, images.names, split.base)
    found = rank_images(teacher, chosen, base_boxes, text, len(split.base), config, device, rpn)
    with track(len(chosen), "Recall of proposals") as advance:
        for image, proposals in zip(chosen, found, strict=True):
            boxes[image.image_id] = proposals
            advance(1, "")
    return novel_recall(boxes, images, split.novel)
