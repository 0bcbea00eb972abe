"""Candidate boxes for proposals: the anchor grid, scoring and selection, as pure functions of tensors."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from ezsd.recipe import ProposeConfig
from ezsd.utils.boxes import covered_share
from ezsd.utils.resize import resize_scale

_NMS_MARGIN = 8  # initial number of boxes for NMS, as a multiple of the number to keep
_GRIDS = 64  # image sizes whose grids are cached


@lru_cache(_GRIDS)
def anchor_grid(height: int, width: int, config: ProposeConfig) -> Tensor:
    """Return boxes of all sides and ratios, centered on the cells of a grid over the image resized to ``image_size``.

    Args:
        height: The height of the image in pixels.
        width: The width of the image in pixels.
        config: Uses image_size, stride, sides and ratios (height / width).

    Returns:
        ``[A, 4]`` xyxy, absolute pixels of the original image, clipped to the image. Duplicates, and boxes with a side
        of less than one pixel, are removed.
    """
    scale = resize_scale(height, width, config.image_size)
    rows, columns = (max(1, math.ceil(round(side * scale) / config.stride)) for side in (height, width))
    y = (torch.arange(rows) + 0.5) * config.stride
    x = (torch.arange(columns) + 0.5) * config.stride
    centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2)
    sides = torch.tensor(config.sides, dtype=torch.float32)[:, None]
    root = torch.tensor(config.ratios, dtype=torch.float32).sqrt()
    halves = torch.stack([sides / root, sides * root], dim=-1).reshape(1, -1, 2) / 2
    grid = torch.cat([centers - halves, centers + halves], dim=-1).reshape(-1, 4) / scale
    limits = grid.new_tensor([width, height, width, height])
    boxes: Tensor = torch.unique(torch.minimum(grid.clamp(min=0), limits), dim=0)
    return boxes[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)]


def confidence(probabilities: Tensor, boxes: Tensor, base_names: int, config: ProposeConfig) -> Tensor:
    """Score how likely boxes are objects to propose.

    ``entropy`` (as in the paper) is (log C - entropy) / log C, and ``max_probability`` is the probability of the best
    name. ``novel`` is the probability of the best novel name, times the area relative to the largest box to the power
    of ``size_power``. The teacher is often as confident about a part of an object as about the object, so this prefers
    the larger of two boxes with the same probability.

    Args:
        probabilities: ``[N, C]`` over base names, then novel names.
        boxes: ``[N, 4]`` xyxy.
        base_names: The number of base names among the C names.
        config: Uses ranking and size_power.

    Returns:
        ``[N]`` in 0..1.
    """
    if config.ranking == "max_probability":
        return probabilities.amax(1)
    if config.ranking == "novel":
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        if config.size_power == "auto":
            raise ValueError("size_power: auto must be replaced by a number")
        return (
            novel_probability(probabilities, base_names) * (areas / areas.amax()) ** config.size_power
            if len(boxes)
            else areas
        )
    entropy: Tensor = torch.special.entr(probabilities).sum(1)
    return 1 - entropy / math.log(max(probabilities.shape[1], 2))


def novel_probability(probabilities: Tensor, base_names: int) -> Tensor:
    """Return the probability [N] of the best novel name; of the best name if there are no novel names."""
    wanted = probabilities[:, base_names:] if base_names < probabilities.shape[1] else probabilities
    return wanted.amax(1)


def agreement(boxes: Tensor, regions: Tensor, objectness: Tensor) -> Tensor:
    """Score how well boxes agree with the regions of an RPN: the maximum over regions of objectness times IoU.

    Args:
        boxes: ``[A, 4]`` xyxy.
        regions: ``[R, 4]`` xyxy.
        objectness: ``[R]`` objectness of the regions in 0..1.

    Returns:
        ``[A]`` in 0..1; 0 if a box overlaps no region.
    """
    if not len(regions):
        return boxes.new_zeros(len(boxes))
    return (box_iou(boxes, regions) * objectness).amax(1)


def lie_on(boxes: Tensor, base_boxes: Tensor, share: float) -> Tensor:
    """Return a mask ``[A]`` of the boxes ``[A, 4]`` with more than ``share`` of their area in a base box ``[N, 4]``."""
    return (covered_share(boxes, base_boxes) > share).any(1)


def select(boxes: Tensor, probabilities: Tensor, objectness: Tensor, base_names: int, config: ProposeConfig) -> Tensor:
    """Select proposals from candidate boxes: class-agnostic NMS, shortlist, base filter and limit, in this order.

    Args:
        boxes: ``[A, 4]`` xyxy.
        probabilities: ``[A, C]`` over base names, then novel names.
        objectness: ``[A]``, a factor of the scores.
        base_names: The number of base names among the C names.
        config: Uses ranking, nms, shortlist, base_filter and keep.

    Returns:
        The indices of at most ``keep`` boxes, in descending order of score.
    """
    scores = objectness * confidence(probabilities, boxes, base_names, config)
    return keep_best(first_of_nms(boxes, scores, config.nms, config.wanted), probabilities, base_names, config)


def first_of_nms(boxes: Tensor, scores: Tensor, threshold: float, count: int) -> Tensor:
    """Return the first ``count`` indices that NMS keeps, in descending order of score.

    Boxes with lower scores do not affect which of the best boxes NMS keeps, so most boxes of a grid are not compared.
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
    """Remove boxes whose most probable name is a base name (if ``base_filter``), then return the first ``keep``."""
    if config.base_filter:
        shortlist = shortlist[probabilities[shortlist].argmax(1) >= base_names]
    return shortlist[: config.keep]
