"""Backbone and RPN without RoI heads, for class-agnostic proposals; cheap to train."""

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
    """The first stage of :class:`ezsd.detector.rcnn.Rcnn` as a separate network.

    Args:
        backbone: Computes a feature pyramid from images.
        rpn: Computes regions from the feature pyramid.
        image_size: Short side and maximum long side for the resizing of images in :meth:`propose`.
    """

    def __init__(self, backbone: Backbone, rpn: Rpn, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.image_size = image_size

    def forward(self, images: Sequence[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Args:
            images: Resized images, each [3, H, W], uint8 or float in 0..1.
            targets: ``boxes``, ``crowd_boxes`` and ``ignored_boxes`` of each image, in pixels of the resized image.
        """
        batch = batch_images(images)
        losses: dict[str, Tensor] = self.rpn(batch, self.backbone(batch.tensors), targets)[1]
        return losses

    @torch.no_grad()
    def propose(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the regions of an image; the network must be in evaluation mode.

        Args:
            image: [3, H, W] of any size, uint8 or float in 0..1.

        Returns:
            Boxes [N, 4] (xyxy, pixels of the image, sides of at least one pixel) and objectness [N] in 0..1, sorted
            by descending objectness.
        """
        images = batch_images([resize_image(image, self.image_size)])
        (boxes,), (scores,) = self.rpn.propose(images, self.backbone(images.tensors))
        (height, width), (small_height, small_width) = image.shape[-2:], images.image_sizes[0]
        limits = boxes.new_tensor([width, height] * 2)
        boxes = torch.minimum(boxes * (limits / boxes.new_tensor([small_width, small_height] * 2)), limits)
        kept = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
        return boxes[kept], scores[kept]


def build_proposal_network(config: DetectorConfig, pretrained: bool) -> ProposalNetwork:
    """Build the network; settings of RoI heads are ignored.

    Args:
        config: The recipe's section ``detector``; ``rpn_proposals`` is the maximum number of regions per image.
        pretrained: Whether the backbone starts from ImageNet weights (False when weights are loaded afterwards).
    """
    backbone = Backbone(config.backbone, config.fpn_channels, pretrained, len(config.anchor_sides))
    return channels_last(ProposalNetwork(backbone, build_rpn(config, backbone.out_channels), config.image_size))
