"""Joint transforms of images, boxes, masks and proposals, with torchvision's v2 transforms on tv_tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, functional

from ezsd.utils.boxes import covered_share
from ezsd.utils.resize import resize_scale, resized_sides

_KEPT_SHARE = 0.3  # a crop keeps the boxes of which at least this share of the area is visible
_SMALLEST_SIDE = 2.0  # a crop keeps the boxes whose visible part is at least this large, in pixels after resizing
_TRIES = 5
_GRAY = (0.299, 0.587, 0.114)
_HUE = 0.1  # share of a full turn at strength 1

Window = tuple[int, int, int, int]  # top, left, height and width, in pixels


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
    sides = list(resized_sides(image.shape[-2:], image_size))
    resized: Tensor = functional.resize(image, sides, InterpolationMode.BILINEAR, antialias=True)
    return resized


def resize(sample: Sample, image_size: tuple[int, int]) -> Sample:
    """Resize a sample.

    The new sides are rounded to integers, so the scale of each axis (new side / old side) differs slightly from
    :func:`resize_scale`, by less than one pixel over the side.

    Args:
        sample: The sample.
        image_size: The length of the short side and the maximum length of the long side, in pixels.
    """
    return _resize(sample, list(resized_sides(sample.image.shape[-2:], image_size)))


def jitter_scale(
    sample: Sample, image_size: tuple[int, int], jitter: tuple[float, float], generator: torch.Generator
) -> tuple[Sample, Tensor, Tensor]:
    """Resize a sample by a random factor of the scale of :func:`resize`; crop what is larger than ``image_size``.

    The crop is taken before resizing, so that the cost does not grow with the factor. If no box would stay in any of
    several random crops, the sample is resized without the factor.

    Args:
        sample: The sample.
        image_size: See :func:`resize`. A crop is at most this large, in the orientation of the image.
        jitter: The smallest and the largest factor; their logarithms are sampled uniformly.
        generator: The source of random numbers.

    Returns:
        The sample, and which of its boxes [N] and proposals [M] are kept, as bool; the others are removed from it.
    """
    height, width = sample.image.shape[-2:]
    low, high = (math.log(bound) for bound in jitter)
    factor = math.exp(low + (high - low) * float(torch.rand((), generator=generator)))
    scale = resize_scale(height, width, image_size) * factor
    limits = image_size if height <= width else image_size[::-1]
    visible = [min(side, max(1, round(limit / scale))) for side, limit in zip((height, width), limits, strict=True)]
    smallest = _SMALLEST_SIDE / scale
    for _ in range(_TRIES):
        top, left = (
            int(torch.randint(side - part + 1, (), generator=generator))
            for side, part in zip((height, width), visible, strict=True)
        )
        window = (top, left, visible[0], visible[1])
        boxes, proposals = (kept_by_crop(part, window, smallest) for part in (sample.boxes, sample.proposals))
        if boxes.any() or not len(boxes):
            size = [max(1, min(limit, round(side * scale))) for side, limit in zip(visible, limits, strict=True)]
            return _resize(crop(sample, window, boxes, proposals), size), boxes, proposals
    boxes, proposals = (torch.ones(len(part), dtype=torch.bool) for part in (sample.boxes, sample.proposals))
    return resize(sample, image_size), boxes, proposals


def kept_by_crop(boxes: Tensor, window: Window, smallest: float) -> Tensor:
    """Return [N] bool: which boxes [N, 4] a crop keeps.

    Args:
        boxes: xyxy, pixels of the image.
        window: The crop.
        smallest: The smallest side of the visible part of a box, in pixels.
    """
    top, left, height, width = window
    boxes = boxes.as_subclass(Tensor)
    area = boxes.new_tensor([[left, top, left + width, top + height]])
    visible = torch.minimum(boxes[:, 2:], area[:, 2:]) - torch.maximum(boxes[:, :2], area[:, :2])
    return (covered_share(boxes, area)[:, 0] >= _KEPT_SHARE) & (visible >= smallest).all(1)


def crop(sample: Sample, window: Window, boxes: Tensor, proposals: Tensor) -> Sample:
    """Crop a sample and clip its boxes to the crop.

    Args:
        sample: The sample.
        window: The crop.
        boxes: [N] bool, which boxes to keep.
        proposals: [M] bool, which proposals to keep.
    """
    return Sample(
        image=functional.crop(sample.image, *window),
        boxes=functional.crop(_rows(sample.boxes, boxes), *window),
        labels=sample.labels[boxes],
        masks=None if sample.masks is None else functional.crop(tv_tensors.Mask(sample.masks[boxes]), *window),
        proposals=functional.crop(_rows(sample.proposals, proposals), *window),
    )


def jitter_color(image: tv_tensors.Image, strength: float, generator: torch.Generator) -> tv_tensors.Image:
    """Change brightness, contrast, saturation and hue of an image [3, H, W], uint8, by random amounts.

    All four are one linear map of the colors, computed in one pass: ten times faster than one after the other.

    Args:
        image: The image.
        strength: The first three are multiplied by factors in 1 - strength .. 1 + strength; colors turn around the
            gray axis by at most a tenth of ``strength`` turns.
        generator: The source of random numbers.
    """
    brightness, contrast, saturation, turn = (
        (2 * torch.rand(4, generator=generator, dtype=torch.float64) - 1) * strength
    ).tolist()
    pixels = image.as_subclass(Tensor).float()
    matrix, offset = color_map(
        1 + brightness, 1 + contrast, 1 + saturation, 2 * math.pi * _HUE * turn, pixels.mean((1, 2))
    )
    changed = torch.addmm(offset[:, None], matrix, pixels.flatten(1)).view_as(pixels)
    return tv_tensors.Image(changed.round_().clamp_(0, 255).to(torch.uint8))


def color_map(
    brightness: float, contrast: float, saturation: float, angle: float, mean: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the linear map of colors, matrix [3, 3] and offset [3].

    Args:
        brightness: Factor of the colors.
        contrast: Factor of their distance to the mean gray of the image.
        saturation: Factor of their distance to their own gray.
        angle: The angle in radians by which they turn around the gray axis.
        mean: [3], the mean color of the image.
    """
    gray = mean.new_tensor(_GRAY)
    one, cosine = torch.eye(3), math.cos(angle)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) * (math.sin(angle) / math.sqrt(3))
    turned = cosine * one + (1 - cosine) / 3 + cross
    saturated = saturation * one + (1 - saturation) * gray
    level = (1 - contrast) * (gray @ mean)
    return brightness * contrast * (turned @ saturated), brightness * level.expand(3)


def _rows(boxes: tv_tensors.BoundingBoxes, kept: Tensor) -> tv_tensors.BoundingBoxes:
    rows: tv_tensors.BoundingBoxes = tv_tensors.wrap(boxes[kept], like=boxes)
    return rows


def _resize(sample: Sample, size: list[int]) -> Sample:
    return replace(
        sample,
        image=functional.resize(sample.image, size, InterpolationMode.BILINEAR, antialias=True),
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
