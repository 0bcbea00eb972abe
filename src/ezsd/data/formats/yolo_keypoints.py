"""Recognize keypoints behind the boxes in rows of YOLO label files, which could also be read as polygons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROUNDED = 0.02
_MOST = 0.95  # of the rows or keypoints must be as expected; tools clip and round
_LEAST_ROWS = 10  # for keypoints without visibility, which are harder to tell from polygons
_LEAST_AREA = 0.3  # of the box that is covered by the points of the row, where these are keypoints


def keypoint_numbers(rows: Sequence[Sequence[float]]) -> tuple[int, int]:
    """Return how many numbers of keypoints follow each box, and how many there are of each keypoint; 0 for polygons.

    All rows are of the same length, apart from those with a box alone. The first four numbers are the center and size
    of a box inside the image with the keypoints inside, and the third number of each keypoint is 0, 1 or 2.

    Args:
        rows: The numbers after the class of each row.
    """
    lengths = {len(row) for row in rows} - {4}
    count = next(iter(lengths), 0)
    if len(lengths) != 1 or count < 6:
        return 0, 0
    values = np.array([row for row in rows if len(row) == count], dtype=np.float64)
    if not (np.abs(values) <= 2).all() or _share(_is_box(values)) < _MOST:
        return 0, 0
    values = values[_is_box(values)]
    for each in (3, 2):
        if (count - 4) % each == 0 and _are_keypoints(values, each):
            return count - 4, each
    return 0, 0


def _are_keypoints(values: NDArray[np.float64], each: int) -> bool:
    center, size = values[:, None, :2], values[:, None, 2:4]
    points = values[:, 4:].reshape(len(values), -1, each)
    visible = points[..., :2].any(2)  # 0 0 is a keypoint that is not labelled
    inside: NDArray[np.bool_] = np.all(np.abs(points[..., :2] - center) <= size / 2 + _ROUNDED, axis=2)
    if each == 3:
        flags = points[..., 2]
        return bool(np.isin(flags, (0, 1, 2)).all()) and _share(inside[visible]) >= _MOST
    return len(values) >= _LEAST_ROWS and _share(inside[visible]) >= _MOST and not _are_polygons(values)


def _are_polygons(values: NDArray[np.float64]) -> bool:
    """Return whether rows whose first numbers could be a box are polygons: small against that box, or rectangles."""
    points = values.reshape(len(values), -1, 2)
    if points.shape[1] == 4:
        gaps = np.abs(points[:, 0] + points[:, 2] - points[:, 1] - points[:, 3]).max(1)
        if _share(gaps < _ROUNDED) >= _MOST:
            return True
    areas = (points.max(1) - points.min(1)).prod(1) / values[:, 2:4].prod(1)
    return bool(np.median(areas) < _LEAST_AREA)


def _is_box(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    first, last = values[:, :2] - values[:, 2:4] / 2, values[:, :2] + values[:, 2:4] / 2
    inside: NDArray[np.bool_] = np.all((first >= -_ROUNDED) & (last <= 1 + _ROUNDED) & (first < last), axis=1)
    return inside


def _share(found: NDArray[np.bool_]) -> float:
    return float(found.mean()) if found.size else 0.0
