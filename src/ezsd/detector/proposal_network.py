"""Backbone and RPN without RoI heads: finds class-agnostic regions, and is cheap to train."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ezsd.data.transforms import resize_image
from ezsd.detector.backbone import Backbone
from ezsd.detector.rcnn import batch_images, channels_last
from ezsd.detector.roi_heads import Target
from ezsd.detector.rpn import Rpn, build_rpn
from ezsd.recipe import DetectorConfig


class ProposalNetwork(nn.Module):
    """The first stage of :class:`ezsd.detector.rcnn.Rcnn`, on its own.

    Args:
        backbone: images to a feature pyramid.
        rpn: features to regions.
        image_size: short and longest long side that images are resized to in :meth:`propose`.
    """

    def __init__(self, backbone: Backbone, rpn: Rpn, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.image_size = image_size

    def forward(self, images: Sequence[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Args:
            images: resized, [3, H, W] uint8 or float in 0..1 each.
            targets: per image ``boxes``, ``crowd_boxes`` and ``ignored_boxes``, pixels of the resized images.
        """
        batch = batch_images(images)
        losses: dict[str, Tensor] = self.rpn(batch, self.backbone(batch.tensors), targets)[1]
        return losses

    @torch.no_grad()
    def propose(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Find regions; the network must be in evaluation mode.

        Args:
            image: any size, [3, H, W] uint8 or float in 0..1.

        Returns:
            boxes [N, 4] xyxy in pixels of the image, both sides at least one, and objectness [N] in 0..1; best first.
        """
        images = batch_images([resize_image(image, self.image_size)])
        boxes, scores = self.rpn.propose(images, self.backbone(images.tensors))
        (height, width), (small_height, small_width) = image.shape[-2:], images.image_sizes[0]
        limits = boxes.new_tensor([width, height] * 2)
        boxes = torch.minimum(boxes * (limits / boxes.new_tensor([small_width, small_height] * 2)), limits)
        kept = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
        return boxes[kept], scores[kept]


def build_proposal_network(config: DetectorConfig, pretrained: bool) -> ProposalNetwork:
    """Put the network together; of the settings, those of RoI heads do not count.

    Args:
        config: the recipe's section; ``rpn_proposals`` = regions of an image, at most.
        pretrained: whether the backbone starts from ImageNet weights (False when weights are loaded).
    """
    backbone = Backbone(config.backbone, config.fpn_channels, pretrained)
    return channels_last(ProposalNetwork(backbone, build_rpn(config, backbone.out_channels), config.image_size))
