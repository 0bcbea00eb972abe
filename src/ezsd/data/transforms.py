"""Changes of a photo that take its boxes, masks and proposals along."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from ezsd.utils.boxes import resize_scale


@dataclass
class Sample:
    """One photo on its way into training; all boxes are xyxy in pixels of ``picture``.

    Attributes:
        image: [3, H, W] uint8.
        boxes: [N, 4] float32.
        labels: [N] int64.
        masks: [N, H, W] uint8 of 0 and 1, or None where there are none.
        proposals: [M, 4] float32; M may be 0.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor | None
    proposals: Tensor


def resize_image(image: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Resize a picture [3, H, W] (uint8 or float, any device), smoothed when it shrinks; see :func:`resize_scale`."""
    resized: Tensor = transforms.resize(image, _new_size(image, image_size), InterpolationMode.BILINEAR, antialias=True)
    return resized


def resize(sample: Sample, image_size: tuple[int, int]) -> tuple[Sample, float]:
    """Resize a photo with all that lies on it.

    Args:
        sample: the photo.
        image_size: short side, and longest long side, in pixels.

    Returns:
        The resized photo and the scale of :func:`resize_scale`. Sides are whole pixels, so each axis is scaled by
        new side / old side, which differs from the scale by less than a pixel over the whole side.
    """
    height, width = sample.image.shape[-2:]
    new_height, new_width = _new_size(sample.image, image_size)
    factors = torch.tensor([new_width / width, new_height / height] * 2)
    masks = None
    if sample.masks is not None:
        masks = transforms.resize(sample.masks, [new_height, new_width], InterpolationMode.NEAREST)
    resized = Sample(
        resize_image(sample.image, image_size),
        sample.boxes * factors,
        sample.labels,
        masks,
        sample.proposals * factors,
    )
    return resized, resize_scale(height, width, image_size)


def flip(sample: Sample) -> Sample:
    """Mirror a photo left to right, with all that lies on it."""
    width = sample.image.shape[-1]
    return Sample(
        sample.image.flip(-1),
        _flip_boxes(sample.boxes, width),
        sample.labels,
        None if sample.masks is None else sample.masks.flip(-1),
        _flip_boxes(sample.proposals, width),
    )


def _flip_boxes(boxes: Tensor, width: int) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


def _new_size(image: Tensor, image_size: tuple[int, int]) -> list[int]:
    height, width = image.shape[-2:]
    scale = resize_scale(height, width, image_size)
    return [max(1, round(height * scale)), max(1, round(width * scale))]
