"""The detector's losses: pure functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_loss(logits: Tensor, labels: Tensor, names: int) -> Tensor:
    """Cross-entropy over background and vocabulary; for regions of the background, also over other names.

    Names without boxes are told from background alone: a base object that looks like a novel name may well be near it.

    Args:
        logits: [N, 1 + C + U], column 0 is the background, the last U are names without boxes.
        labels: [N] int64, 0 = background, at most C.
        names: C.
    """
    others = torch.arange(logits.shape[1], device=logits.device) > names
    return F.cross_entropy(logits.float().masked_fill(others & (labels > 0)[:, None], -torch.inf), labels)


def box_regression_loss(deltas: Tensor, labels: Tensor, target_deltas: Tensor) -> Tensor:
    """Smooth L1 over the foreground regions, divided by the number of all regions (Fast R-CNN, eq. 2-3).

    Args:
        deltas: [N, 4] class-agnostic.
        labels: [N] int64, 0 = background.
        target_deltas: [N, 4].
    """
    foreground = labels > 0
    total = F.smooth_l1_loss(deltas[foreground].float(), target_deltas[foreground], beta=1 / 9, reduction="sum")
    return total / max(1, labels.numel())


def distillation_loss(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Weighted L1 between student and teacher region embeddings (METHOD: EZSD, stage 3).

    The absolute differences are summed over the D dimensions and averaged over the regions.

    Args:
        student: [N, D] unit length.
        teacher: [N, D] unit length.
        weights: [N], mean 1 in each image (see :func:`ezsd.training.dataset.mean_one`).
    """
    if student.shape[0] == 0:
        return student.sum()
    distances = (student.float() - teacher.float()).abs().sum(dim=1)
    return (weights * distances).mean()
