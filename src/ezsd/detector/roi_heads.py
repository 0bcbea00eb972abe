"""RoI heads: classify regions by their embeddings and predict boxes and masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss, paste_masks_in_image
from torchvision.ops import batched_nms, clip_boxes_to_image

from ezsd.detector.box_head import BoxHead
from ezsd.detector.losses import box_regression_loss, classification_loss, distillation_loss
from ezsd.detector.rpn import on_ignored
from ezsd.detector.text_classifier import TextClassifier

Target = dict[str, Tensor]
Sizes = list[tuple[int, int]]
CANDIDATES = 1000  # maximum number of (region, name) pairs per image before NMS


@dataclass
class Detections:
    """The detections of one image, sorted by descending score.

    Attributes:
        boxes: [N, 4] xyxy, pixels of the image.
        labels: [N] int64, index of the text embedding (0-based).
        scores: [N] in 0..1.
        masks: [N, H, W] bool, or None.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | None = None


class ZeroShotRoIHeads(RoIHeads):
    """torchvision's RoI heads with a text classifier, distillation and semantic regression.

    Args:
        box_head: Computes region embeddings and boxes from pooled features.
        classifier: Computes logits from region and text embeddings.
        semantic_top_k: Number of best names of a region that get their own box, regressed with their text embedding;
            the other names of the region use the box of its best name. 1 = as in the paper.
        parts: Further arguments of torchvision's RoIHeads (pooling, thresholds, mask branch).
    """

    def __init__(self, box_head: BoxHead, classifier: TextClassifier, semantic_top_k: int, **parts: Any) -> None:
        super().__init__(box_head=box_head, box_predictor=classifier, **parts)
        self.semantic_top_k = semantic_top_k

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: Sizes,
        text_embeddings: Tensor,
        targets: list[Target] | None = None,
        other_names: Tensor | None = None,
    ) -> tuple[list[Detections], dict[str, Tensor]]:
        """Return detections (inference) or losses (training, if targets are given).

        Args:
            features: Pyramid levels, each [B, F, h, w].
            proposals: [N, 4] of each image, xyxy in pixels of the batched image.
            image_shapes: (height, width) of each image without padding.
            text_embeddings: [C, D], unit length, the vocabulary.
            targets: ``boxes`` [N, 4], ``labels`` [N] (1-based index in the vocabulary), ``crowd_boxes``,
                ``ignored_boxes``, ``distill_boxes`` [K, 4], ``distill_embeddings`` [K, D], ``distill_weights`` [K] of
                each image, and ``masks`` [N, H, W] if the model has a mask branch.
            other_names: [U, D], unit length, names without boxes; additional negatives for background regions in
                training.
        """
        if targets is None:
            return self._detect(features, proposals, image_shapes, text_embeddings), {}
        if other_names is None:
            other_names = text_embeddings[:0]
        return [], self._losses(features, proposals, image_shapes, text_embeddings, targets, other_names)

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Sample regions of each image; background regions on crowd boxes or ignored boxes are never sampled.

        Returns:
            For each image: regions [N, 4], indices of the matched base boxes [N], labels [N], target deltas [N, 4].
        """
        gt_boxes = [target["boxes"] for target in targets]
        proposals = self.add_gt_proposals(proposals, gt_boxes)
        matched, labels = self.assign_targets_to_proposals(proposals, gt_boxes, [t["labels"] for t in targets])
        for label, boxes, target in zip(labels, proposals, targets, strict=True):
            label[(label == 0) & on_ignored(boxes, target)] = -1
        kept = self.subsample(labels)
        proposals, matched, labels = (
            [values[index] for values, index in zip(part, kept, strict=True)] for part in (proposals, matched, labels)
        )
        matched_boxes = [
            boxes[index] if len(boxes) else regions
            for boxes, index, regions in zip(gt_boxes, matched, proposals, strict=True)
        ]
        return proposals, matched, labels, self.box_coder.encode(matched_boxes, proposals)

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        sizes: Sizes,
        text_embeddings: Tensor,
        targets: list[Target],
        other_names: Tensor,
    ) -> dict[str, Tensor]:
        sampled, matched, labels_by_image, deltas_by_image = self.select_training_samples(proposals, targets)
        labels, target_deltas = torch.cat(labels_by_image), torch.cat(deltas_by_image)
        distilled = [target["distill_boxes"] for target in targets]
        is_distilled = torch.cat(
            [
                torch.arange(len(some) + len(more), device=labels.device) >= len(some)
                for some, more in zip(sampled, distilled, strict=True)
            ]
        )
        regions = [torch.cat(pair) for pair in zip(sampled, distilled, strict=True)]
        shared = self._shared_features(features, regions, sizes)
        embeddings = self.box_head.embed(shared)
        logits = self.box_predictor(embeddings[~is_distilled], torch.cat([text_embeddings, other_names]))
        deltas = self.box_head.deltas(
            self.box_head.to_box_features(shared[~is_distilled]), _text_of(labels, text_embeddings)
        )
        losses = {
            "loss_classifier": classification_loss(logits, labels, len(text_embeddings)),
            "loss_box": box_regression_loss(deltas, labels, target_deltas),
            "loss_distillation": distillation_loss(
                embeddings[is_distilled],
                torch.cat([target["distill_embeddings"] for target in targets]),
                torch.cat([target["distill_weights"] for target in targets]),
            ),
        }
        if self.has_mask():
            losses["loss_mask"] = self._mask_loss(features, sampled, matched, labels_by_image, sizes, targets)
        return losses

    def _mask_loss(
        self,
        features: dict[str, Tensor],
        sampled: list[Tensor],
        matched: list[Tensor],
        labels: list[Tensor],
        sizes: Sizes,
        targets: list[Target],
    ) -> Tensor:
        foreground = [label > 0 for label in labels]
        regions = [boxes[keep] for boxes, keep in zip(sampled, foreground, strict=True)]
        logits = self._mask_logits(features, regions, sizes)
        # The mask branch has one class-agnostic channel, so label 0 selects it for every region.
        channel = [torch.zeros_like(target["labels"]) for target in targets]
        index = [values[keep] for values, keep in zip(matched, foreground, strict=True)]
        loss: Tensor = maskrcnn_loss(logits, regions, [target["masks"] for target in targets], channel, index)
        return loss

    def _detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], sizes: Sizes, text_embeddings: Tensor
    ) -> list[Detections]:
        shared = self._shared_features(features, proposals, sizes)
        scores = self.box_predictor(self.box_head.embed(shared), text_embeddings).softmax(dim=1)[:, 1:]
        counts = [len(boxes) for boxes in proposals]
        box_features = self.box_head.to_box_features(shared)
        found = [
            self._detect_in_image(*parts, text_embeddings)
            for parts in zip(box_features.split(counts), scores.split(counts), proposals, sizes, strict=True)
        ]
        if self.has_mask():
            logits = self._mask_logits(features, [detections.boxes for detections in found], sizes)
            for detections, masks in zip(found, logits.split([len(d.boxes) for d in found]), strict=True):
                detections.masks = masks.sigmoid()
        return found

    def _detect_in_image(
        self, box_features: Tensor, scores: Tensor, proposals: Tensor, size: tuple[int, int], text_embeddings: Tensor
    ) -> Detections:
        region, name = torch.where(scores > self.score_thresh)
        best = scores[region, name].topk(min(CANDIDATES, len(region))).indices
        region, name = region[best], name[best]
        boxes = self._regress(box_features, scores, proposals, region, name, text_embeddings)
        boxes, confidence = clip_boxes_to_image(boxes, size), scores[region, name]
        keep = batched_nms(boxes, confidence, name, self.nms_thresh)[: self.detections_per_img]
        return Detections(boxes[keep], name[keep], confidence[keep])

    def _regress(
        self, box_features: Tensor, scores: Tensor, proposals: Tensor, region: Tensor, name: Tensor, text: Tensor
    ) -> Tensor:
        """Return boxes [P, 4] of (region, name) pairs; names beyond the top k use the box of the best name."""
        if not self.box_head.semantic:
            deltas = self.box_head.deltas(box_features, text[:0])[region]
        else:
            top = scores.topk(min(self.semantic_top_k, scores.shape[1]), dim=1).indices
            guide = torch.where((top[region] == name[:, None]).any(dim=1), name, top[region, 0])
            deltas = self.box_head.deltas(box_features[region], text[guide])
        boxes: Tensor = self.box_coder.decode_single(deltas, proposals[region])
        return boxes

    def _shared_features(self, features: dict[str, Tensor], regions: list[Tensor], sizes: Sizes) -> Tensor:
        pooled = self.box_roi_pool(features, regions, sizes)
        shared: Tensor = self.box_head.shared(pooled.contiguous(memory_format=torch.channels_last))
        return shared

    def _mask_logits(self, features: dict[str, Tensor], regions: list[Tensor], sizes: Sizes) -> Tensor:
        pooled = self.mask_roi_pool(features, regions, sizes)
        logits: Tensor = self.mask_predictor(self.mask_head(pooled)).float()
        return logits


def _text_of(labels: Tensor, text_embeddings: Tensor) -> Tensor:
    """Return the text embedding of each label, [N, D]; zeros for the background (label 0)."""
    return torch.cat([torch.zeros_like(text_embeddings[:1]), text_embeddings])[labels]


def paste_masks(detections: Detections, size: tuple[int, int]) -> Detections:
    """Convert mask probabilities [N, 1, S, S] to masks [N, H, W] bool for an image of ``size`` (height, width)."""
    if detections.masks is not None:
        detections.masks = paste_masks_in_image(detections.masks, detections.boxes, size)[:, 0] > 0.5
    return detections
