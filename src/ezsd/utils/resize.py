"""The size that the detector resizes and pads an image to; without torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

PADDED_TO = 32  # the sides of a batch are multiples of this, the largest stride of the backbone


def resize_scale(height: int, width: int, image_size: tuple[int, int]) -> float:
    """Return the factor that scales the short side to ``image_size[0]``, the long side to ``image_size[1]`` at most."""
    short, long = sorted((height, width))
    return min(image_size[0] / short, image_size[1] / long)


def resized_sides(size: Sequence[int], image_size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width after resizing an image of ``size`` (height, width); see :func:`resize_scale`."""
    height, width = size
    scale = resize_scale(height, width, image_size)
    return max(1, round(height * scale)), max(1, round(width * scale))


def padded_side(side: int) -> int:
    """Return a side after padding."""
    return -(-side // PADDED_TO) * PADDED_TO


def same_size_batches(
    sizes: Sequence[Sequence[int]], image_size: tuple[int, int], batch_size: int
) -> Iterator[list[int]]:
    """Yield batches of the indices of images.

    Padding changes the features near edges, so a batch has images of one padded size. Then what is detected does not
    depend on the batch size.

    Args:
        sizes: Height and width of each image.
        image_size: Short side and maximum long side of resized images.
        batch_size: The maximum number of images per batch.
    """
    same_size = defaultdict(list)
    for index, size in enumerate(sizes):
        height, width = resized_sides(size, image_size)
        same_size[padded_side(height), padded_side(width)].append(index)
    for indices in same_size.values():
        yield from (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))
