"""The size that the detector resizes an image to; without torch."""

from __future__ import annotations

from collections.abc import Sequence


def resize_scale(height: int, width: int, image_size: tuple[int, int]) -> float:
    """Return the factor that scales the short side to ``image_size[0]``, the long side to ``image_size[1]`` at most."""
    short, long = sorted((height, width))
    return min(image_size[0] / short, image_size[1] / long)


def resized_sides(size: Sequence[int], image_size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width after resizing an image of ``size`` (height, width); see :func:`resize_scale`."""
    height, width = size
    scale = resize_scale(height, width, image_size)
    return max(1, round(height * scale)), max(1, round(width * scale))
