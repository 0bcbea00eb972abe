"""Where labels are written: inside the image, beside or in their boxes, not on each other; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def place_labels(boxes: Array, sizes: Sequence[tuple[int, int]], image: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the left and top of each label.

    Every label is inside the image, if it fits there at all. Of the places above, in and below its box, the first that
    covers no label placed before is chosen; then the nearest free place above or below; then the least covered one.

    Args:
        boxes: [N, 4] xyxy in pixels, the most important first.
        sizes: Width and height of each label.
        image: Width and height of the image.
    """
    taken = np.zeros((0, 4))
    placed: list[tuple[int, int]] = []
    for box, size in zip(boxes, sizes, strict=True):
        places = _places(box, size, image)
        rectangles = np.concatenate([places, places + size], axis=1)
        left, top = places[int(_covered(rectangles, taken).argmin())]  # the first of the best
        placed.append((int(left), int(top)))
        taken = np.concatenate([taken, [[left, top, left + size[0], top + size[1]]]])
    return placed


def _places(box: Array, size: tuple[int, int], image: tuple[int, int]) -> Array:
    """Return the places [P, 2] that are tried, the best first."""
    x1, y1, x2, y2 = (round(side) for side in box.tolist())
    width, height = size
    beside = [(left, top) for top in (y1 - height, y1, y2, y2 - height) for left in (x1, x2 - width)]
    rows = np.arange(y1 % height, max(1, image[1] - height + 1), height)  # those of labels above and in the box, too
    column = [(x1, int(top)) for top in rows[np.abs(rows - y1).argsort(kind="stable")]]
    last = max(0, image[0] - width), max(0, image[1] - height)
    return np.array([*beside, *column]).clip(0, last)


def _covered(rectangles: Array, taken: Array) -> Array:
    """Return the area of each rectangle that those taken cover, [P]."""
    starts = np.maximum(rectangles[:, None, :2], taken[None, :, :2])
    ends = np.minimum(rectangles[:, None, 2:], taken[None, :, 2:])
    area: Array = (ends - starts).clip(min=0).prod(axis=2).sum(axis=1)
    return area
