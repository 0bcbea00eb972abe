"""The losses of the detector, as functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEDERATED_NAMES = 50  # in the loss of a batch (Zhou et al. 2021)
SEESAW_MITIGATION, SEESAW_COMPENSATION = 0.8, 2.0  # exponents p and q (Wang et al. 2021)
LEAST_IOU = 0.1  # boxes that overlap their base object less do not train the predicted IoU


def classification_losses(logits: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """Return the cross-entropy of each region over background and vocabulary, [N].

    Args:
        logits: [N, 1 + C + V]; column 0 is the background, the last V columns are names without boxes.
        labels: [N] int64, 0 = background, at most C.
        others: [N, V] bool, the names without boxes that a region is classified against too.
    """
    masked = F.pad(~others, (logits.shape[1] - others.shape[1], 0))
    return F.cross_entropy(logits.float().masked_fill(masked, -torch.inf), labels, reduction="none")


def seesaw_logits(logits: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
    """Return logits whose cross-entropy is the Seesaw loss (Wang et al. 2021).

    For a region of name i, the logit of name j is increased by the logarithm of two factors. The mitigation factor,
    min(1, (N_j / N_i)^p) for N boxes of a name, protects rare names from the many objects of frequent ones. The
    compensation factor, max(1, (s_j / s_i)^q) for scores s, restores the penalty where j is more probable than i.
    Background regions and the logit of the background are not changed.

    Args:
        logits: [N, 1 + C]; column 0 is the background.
        labels: [N] int64, 0 = background, at most C.
        boxes: [C] number of boxes of each name in the training.
    """
    counts = torch.cat([boxes.new_ones(1), boxes.clamp(min=1)]).log()
    log_scores = logits.detach().float().log_softmax(dim=1)
    mitigation = (SEESAW_MITIGATION * (counts - counts[labels][:, None])).clamp(max=0)
    compensation = (SEESAW_COMPENSATION * (log_scores - log_scores.gather(1, labels[:, None]))).clamp(min=0)
    factors = mitigation + compensation
    factors[:, 0] = 0
    return logits.float() + factors * (labels > 0)[:, None]


def federated_logits(logits: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
    """Return logits in which only some of the names take part; the others are minus infinity.

    These are the names of the regions, filled up to ``FEDERATED_NAMES`` with others, drawn with a probability
    proportional to the square root of their boxes (federated loss, Zhou et al. 2021, "Probabilistic two-stage
    detection"; there with a sigmoid for each name).

    Args:
        logits: [N, 1 + C]; column 0 is the background.
        labels: [N] int64, 0 = background, at most C.
        boxes: [C] number of boxes of each name in the training.
    """
    used = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    used[labels] = True
    used[0] = False
    chances = boxes.sqrt().masked_fill(used[1:], 0)
    more = min(FEDERATED_NAMES - int(used.sum()), int((chances > 0).sum()))
    if more > 0:
        used[1 + torch.multinomial(chances, more)] = True
    used[0] = True
    return logits.float().masked_fill(~used, -torch.inf)


class LongTail(nn.Module):
    """Changes the logits of the classification loss for data with many rare names.

    Args:
        kind: "federated" or "seesaw".
        boxes: [C] number of boxes of each name in the training.
    """

    def __init__(self, kind: str, boxes: Tensor) -> None:
        super().__init__()
        self.change = {"federated": federated_logits, "seesaw": seesaw_logits}[kind]
        self.boxes: Tensor
        self.register_buffer("boxes", boxes, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the changed logits [N, 1 + C]; column 0 is the background, and so is label 0."""
        return self.change(logits, labels, self.boxes)


def box_regression_loss(deltas: Tensor, labels: Tensor, target_deltas: Tensor) -> Tensor:
    """Return the smooth L1 loss of foreground regions, divided by the number of all regions (Fast R-CNN, eq. 2-3).

    Args:
        deltas: [N, 4] class-agnostic box deltas.
        labels: [N] int64, 0 = background.
        target_deltas: [N, 4] deltas of the matched boxes.
    """
    foreground = labels > 0
    total = F.smooth_l1_loss(deltas[foreground].float(), target_deltas[foreground], beta=1 / 9, reduction="sum")
    return total / max(1, labels.numel())


def quality_loss(logits: Tensor, ious: Tensor, least: float) -> Tensor:
    """Return the binary cross-entropy between predicted and true IoU, over boxes that overlap a base object.

    Boxes elsewhere are left out, so that objects without boxes are not learned as bad boxes (OLN, Kim et al. 2022).

    Args:
        logits: [N] logits of the predicted IoU.
        ious: [N] IoU of the box with its object, in 0..1.
        least: Boxes with a smaller IoU are left out.
    """
    kept = ious >= least
    if not kept.any():
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(logits[kept].float(), ious[kept])


def names_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy between the target and the student's distribution over background and names.

    The background is one of the student's columns, so a region with a name is also trained not to be background.

    Args:
        logits: [N, 1 + C]; column 0 is the background.
        targets: [N, 1 + C]; the sum of a row is the weight of the region, with mean 1 in each image.
    """
    if logits.shape[0] == 0:
        return logits.sum()
    return F.cross_entropy(logits.float(), targets)


def distillation_loss(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted L1 distance between student and teacher region embeddings (METHOD: EZSD, stage 3).

    The absolute differences are summed over the D dimensions and averaged over the regions.

    Args:
        student: [N, D], unit length.
        teacher: [N, D], unit length.
        weights: [N], with mean 1 in each image (see :func:`ezsd.training.dataset.mean_one`).
    """
    if student.shape[0] == 0:
        return student.sum()
    distances = (student.float() - teacher.float()).abs().sum(dim=1)
    return (weights * distances).mean()
