"""The region proposal network of torchvision, with regions that are ignored in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import box_iou

from ezsd.recipe import DetectorConfig
from ezsd.utils.boxes import covered_share

ANCHOR_RATIOS = (0.5, 1.0, 2.0)  # height / width


class Rpn(RegionProposalNetwork):
    """torchvision's RPN that ignores negatives on crowd boxes and on the best CLIP proposals."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the labels of anchors (1 = object, 0 = background, -1 = ignored) and their matched boxes."""
        labels, matched = super().assign_targets_to_anchors(anchors, targets)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & on_ignored(anchor, target)] = -1
        return labels, matched

    def propose(self, images: ImageList, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the regions and scores of a batch of one image; torchvision's ``forward`` does not return scores.

        Returns:
            Boxes [N, 4] (xyxy, pixels of the image) after NMS on each level and objectness [N] in 0..1, sorted by
            descending objectness.
        """
        levels = list(features.values())
        objectness, deltas = self.head(levels)
        counts = [level[0].numel() for level in objectness]
        flat_objectness, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        anchors = self.anchor_generator(images, levels)
        decoded = self.box_coder.decode(flat_deltas, anchors).view(1, -1, 4)
        boxes, scores = self.filter_proposals(decoded, flat_objectness, images.image_sizes, counts)
        return boxes[0], scores[0]


class _FullPrecision(nn.Module):
    """An RPN head with float32 outputs; half precision causes ties between scores."""

    def __init__(self, head: RPNHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        objectness, deltas = self.head(features)
        return [level.float() for level in objectness], [level.float() for level in deltas]


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
    return Rpn(anchors, _FullPrecision(RPNHead(channels, anchors.num_anchors_per_location()[0])), **options)


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
