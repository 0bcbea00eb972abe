"""The complete detector: backbone, RPN, RoI heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image
from torchvision.ops.poolers import initLevelMapper

from ezsd.data.transforms import resize_image
from ezsd.detector.backbone import Backbone
from ezsd.detector.box_head import BoxHead
from ezsd.detector.detections import Detections
from ezsd.detector.roi_heads import Scoring, Target, TrainingNames, ZeroShotRoIHeads
from ezsd.detector.rpn import Rpn, build_rpn
from ezsd.detector.text_classifier import TextClassifier
from ezsd.recipe import DetectorConfig
from ezsd.utils.device import Precision, autocast
from ezsd.utils.resize import padded_side

Model = TypeVar("Model", bound=nn.Module)


class Rcnn(nn.Module):
    """A two-stage detector that takes its vocabulary as an argument of every call.

    Args:
        backbone: Computes a feature pyramid from images.
        rpn: Computes proposals from the feature pyramid.
        roi_heads: Computes detections from proposals.
        image_size: Short side and maximum long side for the resizing of images in :meth:`detect`.

    Attributes:
        precision: The precision of :meth:`detect` and :meth:`embed_boxes`; similarities of names are always float32.
    """

    def __init__(self, backbone: Backbone, rpn: Rpn, roi_heads: ZeroShotRoIHeads, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.image_size = image_size
        self.precision: Precision = "fp32"

    def forward(
        self,
        images: Sequence[Tensor],
        targets: list[Target],
        text_embeddings: Tensor,
        other_names: Tensor | None = None,
        negatives: Tensor | None = None,
        rivals: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Args:
            images: Resized images, each [3, H, W], uint8 or float in 0..1.
            targets: See :meth:`ZeroShotRoIHeads.losses`; boxes are xyxy in pixels of the resized images.
            text_embeddings: [C, D], unit length, the vocabulary of training.
            other_names: [V, D], unit length, names without boxes.
            negatives: [V] bool, the names without boxes that background regions are classified against; default: none.
            rivals: [V] bool, the names without boxes that base objects, and background regions on them, are classified
                against; default: none.
        """
        others = text_embeddings[:0] if other_names is None else other_names
        none = torch.zeros(len(others), dtype=torch.bool, device=others.device)
        names = TrainingNames(
            text_embeddings, others, none if negatives is None else negatives, none if rivals is None else rivals
        )
        batch, features = self._features(images)
        proposals, rpn_losses = self.rpn(batch, features, targets)
        losses = self.roi_heads.losses(features, proposals, batch.image_sizes, targets, names)
        return {**rpn_losses, **losses}

    @torch.inference_mode()
    def detect(
        self, images: Sequence[Tensor], text_embeddings: Tensor, owners: Tensor | None = None
    ) -> list[Detections]:
        """Detect the objects of a vocabulary.

        Args:
            images: Images of any size, each [3, H, W], uint8 or float in 0..1.
            text_embeddings: [P, D], unit length, any vocabulary; without ``owners``, one row for each name.
            owners: [P], the index of the name of each row, if names have several phrases.

        Returns:
            The detections of each image, in its pixels, sorted by descending score.
        """
        resized = [resize_image(image, self.image_size) for image in images]
        with autocast(resized[0].device.type, self.precision):
            batch, features = self._features(resized)
            proposals, objectness = self.rpn.propose(batch, features)
            found = self.roi_heads.detect(features, proposals, objectness, batch.image_sizes, text_embeddings, owners)
        for detections, image, small in zip(found, images, resized, strict=True):
            height, width = image.shape[-2:]
            scale = torch.tensor([width / small.shape[-1], height / small.shape[-2]] * 2, device=small.device)
            detections.boxes = clip_boxes_to_image(
                detections.boxes * scale, (height, width)
            )  # rounding can exceed the border
        return found

    def _features(self, images: Sequence[Tensor]) -> tuple[ImageList, dict[str, Tensor]]:
        batch = batch_images(images)
        return batch, self.backbone(batch.tensors)

    @torch.inference_mode()
    def classify_boxes(self, images: Sequence[Tensor], boxes: Sequence[Tensor], text_embeddings: Tensor) -> Tensor:
        """Return the probabilities [N, 1 + C] of given boxes, image after image; column 0 is the background.

        Args:
            images: Images of any size, each [3, H, W], uint8 or float in 0..1.
            boxes: [N_i, 4] of each image, xyxy in its pixels.
            text_embeddings: [C, D], unit length, any vocabulary.
        """
        logits: Tensor = self.roi_heads.box_predictor(self.embed_boxes(images, boxes), text_embeddings)
        return logits.softmax(dim=1)

    @torch.inference_mode()
    def embed_boxes(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return the region embeddings [N, D] of given boxes, unit length, image after image.

        Args:
            images: Images of any size, each [3, H, W], uint8 or float in 0..1.
            boxes: [N_i, 4] of each image, xyxy in its pixels.
        """
        resized = [resize_image(image, self.image_size) for image in images]
        regions = []
        for own, image, small in zip(boxes, images, resized, strict=True):
            scale = [small.shape[-1] / image.shape[-1], small.shape[-2] / image.shape[-2]] * 2
            regions.append(own.to(small.device) * torch.tensor(scale, device=small.device))
        heads = self.roi_heads
        with autocast(resized[0].device.type, self.precision):
            batch, features = self._features(resized)
            pooled = heads.box_roi_pool(features, regions, batch.image_sizes)
            embeddings: Tensor = heads.box_head.embed(heads.box_head.shared(pooled))
        return embeddings


def batch_images(images: Sequence[Tensor]) -> ImageList:
    """Pad images [3, H, W] (uint8 or float in 0..1) at the right and bottom to one size; return floats in 0..1."""
    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    height, width = (padded_side(max(side)) for side in zip(*sizes, strict=True))
    padded = [F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in images]
    batch = torch.stack(padded).contiguous(memory_format=torch.channels_last)
    return ImageList(batch.float() / 255 if batch.dtype == torch.uint8 else batch, sizes)


def build_detector(
    config: DetectorConfig, embedding_dim: int, masks: bool, pretrained: bool, logit_scale: float = 100.0
) -> Rcnn:
    """Build a detector.

    Args:
        config: The recipe's section ``detector``.
        embedding_dim: D, the embedding dimension of the teacher.
        masks: Whether to add a mask branch.
        pretrained: Whether the backbone starts from ImageNet weights (False when weights are loaded afterwards).
        logit_scale: The initial logit scale of the classifier.
    """
    backbone = Backbone(config.backbone, config.fpn_channels, pretrained, len(config.anchor_sides))
    channels = backbone.out_channels
    # The FPN paper pools boxes of 224 px at stride 16, with smallest anchors of 32 px; keep this ratio for any anchors.
    # The bins of a box are then at most two cells wide, so one sample per bin is enough.
    canonical = 7 * config.anchor_sides[0] // 2**backbone.first_level
    levels = range(backbone.first_level, 4)
    box_head = BoxHead(channels, embedding_dim, config)
    mask_parts = {
        "mask_roi_pool": _roi_pool(levels, 14, 2, canonical),
        "mask_head": MaskRCNNHeads(channels, (channels,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(channels, channels, 1),
    }
    roi_heads = ZeroShotRoIHeads(
        box_head,
        TextClassifier(embedding_dim, logit_scale),
        Scoring(config.semantic_top_k, config.objectness_power, config.quality_power, config.soft_nms),
        box_roi_pool=_roi_pool(levels, config.roi_size, 1, canonical),
        **roi_options(config),
        **({name: channels_last(part) for name, part in mask_parts.items()} if masks else {}),
    )
    # Not the box head: on CPUs, group normalization of channels-last features takes ten times as long.
    rpn = channels_last(build_rpn(config, channels))
    return Rcnn(channels_last(backbone), rpn, roi_heads, config.image_size)


def _roi_pool(levels: Sequence[int], size: int, samples: int, canonical: int) -> MultiScaleRoIAlign:
    """Return the pooling of regions from pyramid levels; level i has stride 4 * 2**i.

    torchvision would infer the strides from the first batch and keep them, wrong if its images are thin.
    """
    pool = MultiScaleRoIAlign([str(level) for level in levels], size, samples, canonical_scale=canonical)
    pool.scales = [2.0 ** -(level + 2) for level in levels]
    pool.map_levels = initLevelMapper(levels[0] + 2, levels[-1] + 2, canonical_scale=canonical)
    return pool


def roi_options(config: DetectorConfig) -> dict[str, Any]:
    """Return the sampling and filtering options of torchvision's RoI heads."""
    return {
        "fg_iou_thresh": 0.5,
        "bg_iou_thresh": 0.5,
        "batch_size_per_image": config.rois_per_image,
        "positive_fraction": 0.25,
        "bbox_reg_weights": None,
        "score_thresh": config.score_threshold,
        "nms_thresh": config.nms,
        "detections_per_img": config.detections_per_image,
    }


def channels_last(model: Model) -> Model:
    """Convert the weights of convolutions to the faster channels-last layout, in place."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model
