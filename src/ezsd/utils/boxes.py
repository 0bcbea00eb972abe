"""Pure functions of boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_area


def covered_share(boxes: Tensor, others: Tensor) -> Tensor:
    """Return [N, K], the share of the area of each box [N, 4] inside each of the others [K, 4] (all xyxy)."""
    corner = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    sides = (torch.minimum(boxes[:, None, 2:], others[None, :, 2:]) - corner).clamp(min=0)
    return sides.prod(dim=2) / box_area(boxes).clamp(min=1e-6)[:, None]


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the IoU [N] of each box [N, 4] with the box at the same place in the others [N, 4] (all xyxy)."""
    corner = torch.maximum(boxes[:, :2], others[:, :2])
    common = (torch.minimum(boxes[:, 2:], others[:, 2:]) - corner).clamp(min=0).prod(dim=1)
    return common / (box_area(boxes) + box_area(others) - common).clamp(min=1e-6)
