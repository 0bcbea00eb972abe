"""The region proposal network of torchvision, with regions that are ignored in training."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import box_iou

from ezsd.detector.losses import LEAST_IOU, quality_loss
from ezsd.recipe import DetectorConfig
from ezsd.utils.boxes import covered_share, paired_iou

ANCHOR_RATIOS = (0.5, 1.0, 2.0)  # height / width


class Rpn(RegionProposalNetwork):
    """torchvision's RPN that ignores negatives on crowd boxes and on the best CLIP proposals.

    Its head can also predict the IoU of its boxes, trained only near base boxes and pseudo-boxes. The score of a region
    is the geometric mean of objectness and predicted IoU: objects without boxes are learned as background, but not as
    bad boxes (OLN, Kim et al. 2022).
    """

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the regions [N, 4] of each image, and the losses if ``targets`` are given."""
        found = self._read(images, features)
        boxes, _ = self.filter_proposals(found.boxes, found.scores, images.image_sizes, found.counts)
        if targets is None:
            return boxes, {}
        labels, matched = self.assign_targets_to_anchors(found.anchors, targets)
        losses = {}
        if found.quality is not None:
            losses["loss_rpn_quality"] = self._quality_loss(found.quality, found, labels, matched, targets)
        deltas = self.box_coder.encode(matched, found.anchors)
        losses["loss_objectness"], losses["loss_rpn_box_reg"] = self.compute_loss(
            found.objectness, found.deltas, labels, list(deltas)
        )
        return boxes, losses

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the labels of anchors (1 = object, 0 = background, -1 = ignored) and their matched boxes."""
        objects = [_with_pseudo_boxes(target) for target in targets]
        labels, matched = super().assign_targets_to_anchors(anchors, objects)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & on_ignored(anchor, target)] = -1
        return labels, matched

    def propose(self, images: ImageList, features: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the regions and scores of each image; torchvision's ``forward`` does not return scores.

        Returns:
            Boxes [N, 4] (xyxy, pixels of the image) after NMS on each level, and scores [N] in 0..1, sorted by
            descending score.
        """
        found = self._read(images, features)
        boxes, scores = self.filter_proposals(found.boxes, found.scores, images.image_sizes, found.counts)
        return boxes, scores

    def _read(self, images: ImageList, features: dict[str, Tensor]) -> _Found:
        levels = list(features.values())
        objectness, deltas, quality = self.head(levels)
        anchors = self.anchor_generator(images, levels)
        counts = [level[0].numel() for level in objectness]
        flat_objectness, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        boxes = self.box_coder.decode(flat_deltas.detach(), anchors).view(len(anchors), -1, 4)
        scores, flat_quality = flat_objectness.detach(), None
        if quality is not None:
            flat_quality, _ = concat_box_prediction_layers(quality, deltas)
            both = (scores.sigmoid() * flat_quality.detach().sigmoid()).sqrt()
            scores = both.logit(eps=1e-6)
        return _Found(anchors, boxes, flat_objectness, flat_deltas, flat_quality, scores, counts)

    def _quality_loss(
        self,
        logits: Tensor,
        found: _Found,
        labels: list[Tensor],
        matched: list[Tensor],
        targets: list[dict[str, Tensor]],
    ) -> Tensor:
        logits = logits.view(len(targets), -1)
        ious, near = [], []
        for boxes, label, objects, target in zip(found.boxes, labels, matched, targets, strict=True):
            near.append((label != 0) & (len(target["boxes"]) > 0))  # IoU of at least 0.3, or ignored
            ious.append(paired_iou(boxes[near[-1]], objects[near[-1]]))
        return quality_loss(logits[torch.stack(near)], torch.cat(ious), LEAST_IOU)


class _Found(NamedTuple):
    """The outputs of the head for a batch of B images with A anchors each."""

    anchors: list[Tensor]  # [A, 4] of each image
    boxes: Tensor  # [B, A, 4] decoded, without gradient
    objectness: Tensor  # [B * A, 1] logits
    deltas: Tensor  # [B * A, 4]
    quality: Tensor | None  # [B * A, 1] logits of the predicted IoU
    scores: Tensor  # [B * A, 1] logits that rank the boxes, without gradient
    counts: list[int]  # anchors of each level


def _with_pseudo_boxes(target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add confident CLIP proposals to the objects of the RPN."""
    more = target.get("pseudo_boxes")
    return target if more is None or not len(more) else {"boxes": torch.cat([target["boxes"], more])}


class _Head(nn.Module):
    """An RPN head with float32 outputs (half precision causes ties between scores) and optional predicted IoU."""

    def __init__(self, head: RPNHead, quality: bool) -> None:
        super().__init__()
        self.head = head
        channels, anchors = head.cls_logits.in_channels, head.cls_logits.out_channels
        self.quality = nn.Conv2d(channels, anchors, 1) if quality else None
        if self.quality is not None:
            nn.init.normal_(self.quality.weight, std=0.01)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor] | None]:
        objectness, deltas, quality = [], [], []
        for level in features:
            hidden = self.head.conv(level)
            objectness.append(self.head.cls_logits(hidden).float())
            deltas.append(self.head.bbox_pred(hidden).float())
            if self.quality is not None:
                quality.append(self.quality(hidden).float())
        return objectness, deltas, quality or None


class _ExactAnchors(AnchorGenerator):
    """Anchors in float32 for features of any dtype; bfloat16 cannot represent odd numbers above 256."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        exact = [torch.empty((), device=level.device).expand(level.shape) for level in feature_maps]
        anchors: list[Tensor] = super().forward(image_list, exact)
        return anchors


def build_rpn(config: DetectorConfig, channels: int) -> Rpn:
    """Build the RPN; a position of a pyramid level has an anchor for each anchor scale and aspect ratio."""
    sizes = tuple(tuple(side * scale for scale in config.anchor_scales) for side in config.anchor_sides)
    anchors = _ExactAnchors(sizes=sizes, aspect_ratios=(ANCHOR_RATIOS,) * len(sizes))
    kept = {"training": config.rpn_proposals, "testing": config.rpn_proposals}
    options: dict[str, Any] = {
        "fg_iou_thresh": 0.7,
        "bg_iou_thresh": 0.3,
        "batch_size_per_image": 256,
        "positive_fraction": 0.5,
        "pre_nms_top_n": {mode: 2 * count for mode, count in kept.items()},
        "post_nms_top_n": kept,
        "nms_thresh": 0.7,
    }
    return Rpn(anchors, _Head(RPNHead(channels, anchors.num_anchors_per_location()[0]), config.box_quality), **options)


def on_ignored(boxes: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Return a mask [N] of boxes on a crowd (more than half of the box inside) or an ignored region (IoU over 0.5).

    Args:
        boxes: [N, 4] xyxy.
        target: ``crowd_boxes`` [K, 4] and ``ignored_boxes`` [M, 4] of the same image.
    """
    ignored = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if len(target["crowd_boxes"]):
        ignored |= (covered_share(boxes, target["crowd_boxes"]) > 0.5).any(dim=1)
    if len(target["ignored_boxes"]):
        ignored |= (box_iou(boxes, target["ignored_boxes"]) > 0.5).any(dim=1)
    return ignored
