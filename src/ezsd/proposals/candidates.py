"""Boxes that may be proposed, as pure functions of tensors: an anchor grid, how a box is scored, which are chosen."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from ezsd.recipe import ProposeConfig
from ezsd.utils.boxes import covered_share, resize_scale

_SIZE_POWER = 0.1
_NMS_MARGIN = 8  # boxes tried first, for each that is wanted
_GRIDS = 64  # sizes of images whose grid is kept


@lru_cache(_GRIDS)
def anchor_grid(height: int, width: int, config: ProposeConfig) -> Tensor:
    """Boxes of every side and ratio about the cells of a grid, laid on the image resized to ``image_size``.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        config: image_size, stride, sides and ratios (height / width).

    Returns:
        ``[A, 4]`` xyxy, pixels of the image as it is, clipped to it; boxes that fall together, or keep less than a
        pixel, are dropped.
    """
    scale = resize_scale(height, width, config.image_size)
    rows, columns = (max(1, math.ceil(round(side * scale) / config.stride)) for side in (height, width))
    y = (torch.arange(rows) + 0.5) * config.stride
    x = (torch.arange(columns) + 0.5) * config.stride
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2)
    sides = torch.tensor(config.sides, dtype=torch.float32)[:, None]
    root = torch.tensor(config.ratios, dtype=torch.float32).sqrt()
    halves = torch.stack([sides / root, sides * root], dim=-1).reshape(1, -1, 2) / 2
    grid = torch.cat([centres - halves, centres + halves], dim=-1).reshape(-1, 4) / scale
    limits = grid.new_tensor([width, height, width, height])
    boxes: Tensor = torch.unique(torch.minimum(grid.clamp(min=0), limits), dim=0)
    return boxes[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)]


def confidence(
    probabilities: Tensor, boxes: Tensor, base_names: int, ranking: Literal["entropy", "max_probability", "novel"]
) -> Tensor:
    """How much a box looks like an object to propose: ``[N, C]`` probabilities, ``[N, 4]`` boxes -> ``[N]`` in 0..1.

    ``entropy`` (paper) is (log C - entropy) / log C, ``max_probability`` the best name's probability. ``novel`` is the
    best novel name's probability, times the box's share of the largest box to the power of 0.1: parts of an object
    look as much like its name as the whole does, so of two boxes the teacher is equally sure of, the larger wins.
    """
    if ranking == "max_probability":
        return probabilities.amax(1)
    if ranking == "novel":
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        wanted = probabilities[:, base_names:] if base_names < probabilities.shape[1] else probabilities
        return wanted.amax(1) * (areas / areas.amax()) ** _SIZE_POWER if len(boxes) else areas
    entropy: Tensor = torch.special.entr(probabilities).sum(1)
    return 1 - entropy / math.log(max(probabilities.shape[1], 2))


def agreement(boxes: Tensor, regions: Tensor, objectness: Tensor) -> Tensor:
    """How much boxes look like an object to an RPN: the best product of a region's objectness and IoU with the box.

    Args:
        boxes: ``[A, 4]`` xyxy.
        regions: ``[R, 4]`` xyxy.
        objectness: of the regions, ``[R]`` in 0..1.

    Returns:
        ``[A]`` in 0..1; 0 where no region is met.
    """
    if not len(regions):
        return boxes.new_zeros(len(boxes))
    return (box_iou(boxes, regions) * objectness).amax(1)


def lie_on(boxes: Tensor, base_boxes: Tensor, share: float) -> Tensor:
    """Tell which boxes ``[A, 4]`` have more than ``share`` of their area in one of ``base_boxes [N, 4]``: ``[A]``."""
    return (covered_share(boxes, base_boxes) > share).any(1)


def select(boxes: Tensor, probabilities: Tensor, objectness: Tensor, base_names: int, config: ProposeConfig) -> Tensor:
    """Choose proposals among scored boxes.

    Args:
        boxes: ``[A, 4]`` xyxy.
        probabilities: ``[A, C]`` over base names, then novel names.
        objectness: ``[A]``, factor on their scores.
        base_names: how many of the C are base names.
        config: ranking, nms, shortlist, base_filter and keep.

    Returns:
        Indices of at most ``keep`` boxes, best first: class-agnostic NMS, the shortlist, and of it what is not best
        told by a base name.
    """
    scores = objectness * confidence(probabilities, boxes, base_names, config.ranking)
    return keep_best(first_of_nms(boxes, scores, config.nms, config.wanted), probabilities, base_names, config)


def first_of_nms(boxes: Tensor, scores: Tensor, threshold: float, count: int) -> Tensor:
    """Return the first ``count`` indices that NMS keeps, best first.

    What NMS keeps of the best boxes does not depend on the others, so most boxes of a grid need not be compared.
    """
    order = scores.argsort(descending=True, stable=True)
    size = _NMS_MARGIN * count
    while True:
        best = order[:size]
        kept = best[nms(boxes[best], scores[best], threshold)]
        if len(kept) >= count or size >= len(order):
            return kept[:count]
        size *= 4


def keep_best(shortlist: Tensor, probabilities: Tensor, base_names: int, config: ProposeConfig) -> Tensor:
    """Keep what is not best told by a base name (if the settings ask for it), and of it the first ``keep`` indices."""
    if config.base_filter:
        shortlist = shortlist[probabilities[shortlist].argmax(1) >= base_names]
    return shortlist[: config.keep]
