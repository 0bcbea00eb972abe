"""The detections of an image, and the rules that make them from scored regions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

CANDIDATES = 1000  # maximum number of (region, name) pairs per image before NMS


@dataclass
class Detections:
    """The detections of one image, sorted by descending score.

    Attributes:
        boxes: [N, 4] xyxy, pixels of the image.
        labels: [N] int64, index of the text embedding (0-based).
        scores: [N] in 0..1.
        masks: [N, S, S] probabilities inside the boxes, or None. See :mod:`ezsd.inference.masks`.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | None = None


def best_phrases(logits: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits [N, 1 + C] of names by their best phrase, and the index [N, C] of that phrase.

    Args:
        logits: [N, 1 + P]; column 0 is the background.
        owners: [P], the index of the name of each phrase; every name has one.
    """
    names = int(owners.max()) + 1
    columns = owners.expand(len(logits), -1)
    best = logits.new_full((len(logits), names), -torch.inf).scatter_reduce(1, columns, logits[:, 1:], "amax")
    places = torch.arange(len(owners), device=logits.device)
    is_best = torch.where(logits[:, 1:] == best[:, owners], places, -1)
    chosen = places.new_full(best.shape, -1).scatter_reduce(1, columns, is_best, "amax")
    return torch.cat([logits[:, :1], best], dim=1), chosen


def soft_nms(boxes: Tensor, scores: Tensor, labels: Tensor, sigma: float) -> Tensor:
    """Return scores that are lower the more a box overlaps better boxes of the same label.

    The decay is that of Matrix NMS (Wang et al. 2020, eq. 4, Gaussian): all pairs are compared at once, so there is no
    loop over boxes.

    Args:
        boxes: [N, 4] xyxy.
        scores: [N], in descending order.
        labels: [N] int64.
        sigma: Width of the Gaussian; larger values decay less.

    Returns:
        [N] scores; the best box of a label keeps its score.
    """
    return decayed(box_iou(boxes, boxes).nan_to_num(), scores, labels, sigma) if len(boxes) else scores


def decayed(ious: Tensor, scores: Tensor, labels: Tensor, sigma: float) -> Tensor:
    """Return the scores of :func:`soft_nms` from the IoUs of all pairs of boxes.

    Args:
        ious: [..., N, N], 0 for boxes without area.
        scores: [..., N], in descending order.
        labels: [..., N] int64.
        sigma: See :func:`soft_nms`.
    """
    same = labels[..., :, None] == labels[..., None, :]
    ious = (ious * same).triu(diagonal=1)  # row: better box, column: worse box
    covered = ious.amax(dim=-2)  # how far the better box is itself covered
    decay = ((covered[..., :, None] ** 2 - ious**2) / sigma).exp().masked_fill(ious == 0, 1.0)
    return scores * decay.amin(dim=-2).clamp(max=1.0)
