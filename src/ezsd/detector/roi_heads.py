"""RoI heads: classify regions by their embeddings and predict boxes and masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from ezsd.detector.box_head import BoxHead
from ezsd.detector.detections import CANDIDATES, Detections, best_phrases, soft_nms
from ezsd.detector.losses import (
    LEAST_IOU,
    LongTail,
    box_regression_loss,
    classification_losses,
    distillation_loss,
    names_loss,
    quality_loss,
)
from ezsd.detector.rpn import on_ignored
from ezsd.detector.text_classifier import TextClassifier
from ezsd.utils.boxes import paired_iou

Target = dict[str, Tensor]
Sizes = list[tuple[int, int]]
_ON_BASE = 0.2  # IoU of a region with a base object from which the region is no novel object


class TrainingNames(NamedTuple):
    """Text embeddings of the names used by the losses.

    Attributes:
        vocabulary: [C, D] names with boxes.
        others: [V, D] names without boxes.
        negatives: [V] bool, those of the others that background regions are classified against.
        rivals: [V] bool, those of the others that base objects, and background regions on them, are classified against.
    """

    vocabulary: Tensor
    others: Tensor
    negatives: Tensor
    rivals: Tensor


@dataclass(frozen=True)
class Scoring:
    """How detections are scored and thinned out.

    Attributes:
        semantic_top_k: Number of best names of a region that get their own box, regressed with their text embedding;
            the other names of the region use the box of its best name. 1 = as in the paper.
        objectness_power: Exponent of the region's objectness in the score.
        quality_power: Exponent of the predicted IoU in the score, if the head predicts it.
        soft_nms: Sigma of the Gaussian soft-NMS; 0 = hard NMS.
    """

    semantic_top_k: int = 5
    objectness_power: float = 0.0
    quality_power: float = 1.0
    soft_nms: float = 0.0


class RoiSamples(NamedTuple):
    """Regions sampled for the box losses, one entry per image.

    Attributes:
        boxes: [N, 4] regions.
        matched: [N] index of the base box, then pseudo-box.
        labels: [N], 0 = background, more than C = the best name of a pseudo-box.
        deltas: [N, 4] from the region to its base box or pseudo-box.
        objects: [N, 4] these boxes; the region itself if the image has none.
    """

    boxes: list[Tensor]
    matched: list[Tensor]
    labels: list[Tensor]
    deltas: list[Tensor]
    objects: list[Tensor]


class ZeroShotRoIHeads(RoIHeads):
    """torchvision's RoI heads with a text classifier, distillation and semantic regression.

    Args:
        box_head: Computes region embeddings and boxes from pooled features.
        classifier: Computes logits from region and text embeddings.
        scoring: How detections are scored.
        parts: Further arguments of torchvision's RoIHeads (pooling, thresholds, mask branch).
    """

    def __init__(self, box_head: BoxHead, classifier: TextClassifier, scoring: Scoring, **parts: Any) -> None:
        super().__init__(box_head=box_head, box_predictor=classifier, **parts)
        self.scoring = scoring
        self.long_tail: LongTail | None = None  # set for a training on data with many rare names

    def losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        sizes: Sizes,
        targets: list[Target],
        names: TrainingNames,
    ) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Args:
            features: Pyramid levels, each [B, F, h, w].
            proposals: [N, 4] of each image, xyxy in pixels of the batched image.
            sizes: (height, width) of each image without padding.
            targets: ``boxes`` [N, 4], ``labels`` [N] (1-based index in the vocabulary), ``crowd_boxes``,
                ``ignored_boxes``, ``distill_boxes`` [K, 4], ``distill_embeddings`` [K, D], ``distill_weights`` [K] of
                each image, ``distill_names`` [K, 1 + C + V] if names are distilled, ``pseudo_boxes`` [P, 4] and
                ``pseudo_names`` [P, 1 + C + V] if there are pseudo-boxes, and ``masks`` [N, H, W] and ``has_mask`` [N]
                if the model has a mask branch.
            names: The names of the losses.
        """
        samples = self.select_training_samples(proposals, targets)
        labels = torch.cat(samples.labels)
        distilled = [target["distill_boxes"] for target in targets]
        is_distilled = torch.cat(
            [
                torch.arange(len(some) + len(more), device=labels.device) >= len(some)
                for some, more in zip(samples.boxes, distilled, strict=True)
            ]
        )
        regions = [torch.cat(pair) for pair in zip(samples.boxes, distilled, strict=True)]
        shared = self._shared_features(features, regions, sizes)
        embeddings = self.box_head.embed(shared)
        all_names = torch.cat([names.vocabulary, names.others])
        logits = self.box_predictor(embeddings[~is_distilled], all_names)
        box_features = self.box_head.to_box_features(shared[~is_distilled])
        deltas = self.box_head.deltas(box_features, _text_of(labels, all_names))
        losses = {
            "loss_classifier": self._classification_loss(logits, samples, targets, names),
            "loss_box": box_regression_loss(deltas, labels, torch.cat(samples.deltas)),
        }
        if self.box_head.to_quality is not None:
            losses["loss_quality"] = self._quality_loss(box_features, deltas, samples, targets)
        losses |= self._distillation(embeddings[is_distilled], targets, all_names)
        if self.has_mask():
            losses["loss_mask"] = self._mask_loss(features, samples, sizes, targets)
        return losses

    def detect(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        objectness: list[Tensor],
        sizes: Sizes,
        text_embeddings: Tensor,
        owners: Tensor | None = None,
    ) -> list[Detections]:
        """Return the detections of each image.

        Args:
            features: Pyramid levels, each [B, F, h, w].
            proposals: [N, 4] of each image, xyxy in pixels of the batched image.
            objectness: [N] of each image, scores of the proposals in 0..1.
            sizes: (height, width) of each image without padding.
            text_embeddings: [P, D], unit length, the phrases of the vocabulary; without ``owners``, one for each name.
            owners: [P], the index of the name of each phrase. The best phrase of a name gives its score.
        """
        shared = self._shared_features(features, proposals, sizes)
        logits = self.box_predictor(self.box_head.embed(shared), text_embeddings)
        rows = None  # the row in text_embeddings of each region and name, if names have several phrases
        if owners is not None:
            logits, rows = best_phrases(logits, owners)
        scores = logits.softmax(dim=1)[:, 1:]
        box_features = self.box_head.to_box_features(shared)
        factors = torch.cat(objectness) ** self.scoring.objectness_power
        if self.box_head.to_quality is not None:
            factors = factors * self.box_head.quality(box_features).sigmoid() ** self.scoring.quality_power
        counts = [len(boxes) for boxes in proposals]
        by_image = zip(
            box_features.split(counts), scores.split(counts), factors.split(counts), proposals, sizes, strict=True
        )
        rows_of = [None] * len(counts) if rows is None else rows.split(counts)
        found = [
            self._detect_in_image(*parts, text_embeddings, own) for parts, own in zip(by_image, rows_of, strict=True)
        ]
        if self.has_mask():
            logits = self._mask_logits(features, [detections.boxes for detections in found], sizes)
            for detections, masks in zip(found, logits.split([len(d.boxes) for d in found]), strict=True):
                detections.masks = masks[:, 0].sigmoid()
        return found

    def select_training_samples(self, proposals: list[Tensor], targets: list[Target]) -> RoiSamples:
        """Sample regions of each image; background regions on crowd boxes or ignored boxes are never sampled."""
        gt_boxes = [_objects(target) for target in targets]
        proposals = self.add_gt_proposals(proposals, gt_boxes)
        matched, labels = self.assign_targets_to_proposals(proposals, gt_boxes, [_labels(t) for t in targets])
        for label, boxes, target in zip(labels, proposals, targets, strict=True):
            label[(label == 0) & on_ignored(boxes, target)] = -1
        kept = self.subsample(labels)
        proposals, matched, labels = (
            [values[index] for values, index in zip(part, kept, strict=True)] for part in (proposals, matched, labels)
        )
        objects = [
            boxes[index] if len(boxes) else regions
            for boxes, index, regions in zip(gt_boxes, matched, proposals, strict=True)
        ]
        return RoiSamples(proposals, matched, labels, list(self.box_coder.encode(objects, proposals)), objects)

    def _quality_loss(self, box_features: Tensor, deltas: Tensor, samples: RoiSamples, targets: list[Target]) -> Tensor:
        """Return the loss of the predicted IoU of the boxes after regression, near base objects."""
        regions, objects = torch.cat(samples.boxes), torch.cat(samples.objects)
        boxes = self.box_coder.decode_single(deltas.detach(), regions)
        known = torch.cat(
            [index < len(target["boxes"]) for index, target in zip(samples.matched, targets, strict=True)]
        )
        ious = paired_iou(boxes, objects).masked_fill(~known, -1.0)
        return quality_loss(self.box_head.quality(box_features), ious, LEAST_IOU)

    def _classification_loss(
        self, logits: Tensor, samples: RoiSamples, targets: list[Target], names: TrainingNames
    ) -> Tensor:
        """Return the mean over regions: labels for base objects and background, distributions for pseudo-boxes."""
        labels = torch.cat(samples.labels)
        plain = labels <= len(names.vocabulary)
        known, others = logits[plain].split([1 + len(names.vocabulary), len(names.others)], dim=1)
        if self.long_tail is not None:
            known = self.long_tail(known, labels[plain])
        contrasted = contrasted_names(samples, targets, names)[plain]
        losses = classification_losses(torch.cat([known, others], dim=1), labels[plain], contrasted)
        if plain.all():
            return losses.mean()
        wanted = torch.cat(
            [
                target["pseudo_names"][index[label > len(names.vocabulary)] - len(target["boxes"])]
                for label, index, target in zip(samples.labels, samples.matched, targets, strict=True)
            ]
        )
        pseudo = F.cross_entropy(logits[~plain].float(), wanted, reduction="sum")
        return (losses.sum() + pseudo) / len(labels)

    def _distillation(self, embeddings: Tensor, targets: list[Target], names: Tensor) -> dict[str, Tensor]:
        weights = torch.cat([target["distill_weights"] for target in targets])
        teacher = torch.cat([target["distill_embeddings"] for target in targets])
        losses = {"loss_distillation": distillation_loss(embeddings, teacher, weights)}
        if "distill_names" in targets[0]:
            wanted = torch.cat([target["distill_names"] for target in targets])
            losses["loss_names"] = names_loss(self.box_predictor(embeddings, names), wanted)
        return losses

    def _mask_loss(
        self, features: dict[str, Tensor], samples: RoiSamples, sizes: Sizes, targets: list[Target]
    ) -> Tensor:
        # Pseudo-boxes have no masks.
        known = [F.pad(t["has_mask"], (0, 1 + len(_objects(t)) - len(t["boxes"]))) for t in targets]
        foreground = [
            (label > 0) & has[index] for label, index, has in zip(samples.labels, samples.matched, known, strict=True)
        ]
        regions = [boxes[keep] for boxes, keep in zip(samples.boxes, foreground, strict=True)]
        logits = self._mask_logits(features, regions, sizes)
        # The mask branch has one class-agnostic channel, so label 0 selects it for every region.
        channel = [torch.zeros_like(target["labels"]) for target in targets]
        index = [values[keep] for values, keep in zip(samples.matched, foreground, strict=True)]
        loss: Tensor = maskrcnn_loss(logits, regions, [target["masks"] for target in targets], channel, index)
        return loss

    def _detect_in_image(
        self,
        box_features: Tensor,
        scores: Tensor,
        factors: Tensor,
        proposals: Tensor,
        size: tuple[int, int],
        text_embeddings: Tensor,
        rows: Tensor | None,
    ) -> Detections:
        weighted = scores * factors[:, None]
        region, name = torch.where(weighted > self.score_thresh)
        best = weighted[region, name].topk(min(CANDIDATES, len(region))).indices
        region, name = region[best], name[best]
        boxes = self._regress(box_features, scores, proposals, (region, name), text_embeddings, rows)
        boxes, confidence = clip_boxes_to_image(boxes, size), weighted[region, name]
        if self.scoring.soft_nms:
            confidence = soft_nms(boxes, confidence, name, self.scoring.soft_nms)
            keep = confidence.topk(min(self.detections_per_img, len(confidence))).indices
        else:
            keep = batched_nms(boxes, confidence, name, self.nms_thresh)[: self.detections_per_img]
        return Detections(boxes[keep], name[keep], confidence[keep])

    def _regress(
        self,
        box_features: Tensor,
        scores: Tensor,
        proposals: Tensor,
        pairs: tuple[Tensor, Tensor],
        text: Tensor,
        rows: Tensor | None,
    ) -> Tensor:
        """Return boxes [P, 4] of (region, name) pairs; names beyond the top k use the box of the best name."""
        region, name = pairs
        top = scores.topk(min(self.scoring.semantic_top_k, scores.shape[1]), dim=1).indices
        guide = torch.where((top[region] == name[:, None]).any(dim=1), name, top[region, 0])
        phrase = guide if rows is None else rows[region, guide]
        deltas = self.box_head.deltas_of_pairs(box_features, text, region, phrase)
        boxes: Tensor = self.box_coder.decode_single(deltas, proposals[region])
        return boxes

    def _shared_features(self, features: dict[str, Tensor], regions: list[Tensor], sizes: Sizes) -> Tensor:
        shared: Tensor = self.box_head.shared(self.box_roi_pool(features, regions, sizes))
        return shared

    def _mask_logits(self, features: dict[str, Tensor], regions: list[Tensor], sizes: Sizes) -> Tensor:
        pooled = self.mask_roi_pool(features, regions, sizes)
        logits: Tensor = self.mask_predictor(self.mask_head(pooled)).float()
        return logits


def _objects(target: Target) -> Tensor:
    """Return the base boxes and pseudo-boxes [N + P, 4] of an image."""
    more = target.get("pseudo_boxes")
    return target["boxes"] if more is None else torch.cat([target["boxes"], more])


def _labels(target: Target) -> Tensor:
    """Return the labels [N + P] of base boxes, and the best names of pseudo-boxes."""
    names = target.get("pseudo_names")
    return target["labels"] if names is None else torch.cat([target["labels"], names.argmax(dim=1)])


def contrasted_names(samples: RoiSamples, targets: list[Target], names: TrainingNames) -> Tensor:
    """Return which names without boxes a region is classified against, [N, V]."""
    on_base = torch.cat(
        [
            (box_iou(boxes, target["boxes"]) >= _ON_BASE).any(dim=1)
            for boxes, target in zip(samples.boxes, targets, strict=True)
        ]
    )
    background = torch.cat(samples.labels) == 0
    return (on_base[:, None] & names.rivals) | (background[:, None] & names.negatives)


def _text_of(labels: Tensor, text_embeddings: Tensor) -> Tensor:
    """Return the text embedding of each label, [N, D]; zeros for the background (label 0)."""
    return torch.cat([torch.zeros_like(text_embeddings[:1]), text_embeddings])[labels]
