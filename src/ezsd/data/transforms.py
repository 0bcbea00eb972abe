"""Joint transforms of images, boxes, masks and proposals, with torchvision's v2 transforms on tv_tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, functional

from ezsd.utils.boxes import resize_scale


@dataclass(frozen=True)
class Sample:
    """A training image. All boxes are xyxy, absolute pixels of ``image``.

    Attributes:
        image: [3, H, W] uint8.
        boxes: [N, 4] float32.
        labels: [N] int64.
        masks: [N, H, W] uint8 of 0 and 1, or None.
        proposals: [M, 4] float32. M can be 0.
    """

    image: tv_tensors.Image
    boxes: tv_tensors.BoundingBoxes
    labels: Tensor
    masks: tv_tensors.Mask | None
    proposals: tv_tensors.BoundingBoxes

    @staticmethod
    def of(image: Tensor, boxes: Tensor, labels: Tensor, masks: Tensor | None, proposals: Tensor) -> Sample:
        """Create a sample from plain tensors."""
        size = (int(image.shape[-2]), int(image.shape[-1]))
        xyxy = tv_tensors.BoundingBoxFormat.XYXY
        return Sample(
            tv_tensors.Image(image),
            tv_tensors.BoundingBoxes(boxes, format=xyxy, canvas_size=size),
            labels,
            None if masks is None else tv_tensors.Mask(masks),
            tv_tensors.BoundingBoxes(proposals, format=xyxy, canvas_size=size),
        )


def resize_image(image: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Resize an image [3, H, W] (uint8 or float) with antialiasing. See :func:`resize_scale` for the size."""
    resized: Tensor = functional.resize(image, _new_size(image, image_size), InterpolationMode.BILINEAR, antialias=True)
    return resized


def resize(sample: Sample, image_size: tuple[int, int]) -> Sample:
    """Resize a sample.

    The new sides are rounded to integers, so the scale of each axis (new side / old side) differs slightly from
    :func:`resize_scale`, by less than one pixel over the side.

    Args:
        sample: The sample.
        image_size: The length of the short side and the maximum length of the long side, in pixels.
    """
    size = _new_size(sample.image, image_size)
    return replace(
        sample,
        image=resize_image(sample.image, image_size),
        boxes=functional.resize(sample.boxes, size),
        masks=None if sample.masks is None else functional.resize(sample.masks, size, InterpolationMode.NEAREST),
        proposals=functional.resize(sample.proposals, size),
    )


def flip(sample: Sample) -> Sample:
    """Flip a sample horizontally."""
    return replace(
        sample,
        image=functional.horizontal_flip(sample.image),
        boxes=functional.horizontal_flip(sample.boxes),
        masks=None if sample.masks is None else functional.horizontal_flip(sample.masks),
        proposals=functional.horizontal_flip(sample.proposals),
    )


def _new_size(image: Tensor, image_size: tuple[int, int]) -> list[int]:
    height, width = image.shape[-2:]
    scale = resize_scale(height, width, image_size)
    return [max(1, round(height * scale)), max(1, round(width * scale))]
