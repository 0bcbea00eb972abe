"""What the numbers in the rows of YOLO label files are, from all rows together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ezsd.data.formats.box_formats import likely_fractions, shown_formats
from ezsd.data.formats.yolo_keypoints import keypoint_numbers
from ezsd.errors import DataError

LINE = "expected a class and x, y, width, height of the box's center and size, or a polygon, as fractions of the image"
_CENTERED = "cxcywh-fraction"
_ROUNDED = 1.02  # exports exceed 1 by rounding
_Corners = tuple[float, float, float, float]
_CORNERS: dict[str, Callable[..., _Corners]] = {
    _CENTERED: lambda x, y, w, h: (x - w / 2, y - h / 2, x + w / 2, y + h / 2),
    "xyxy-fraction": lambda x1, y1, x2, y2: (x1, y1, x2, y2),
    "yxyx-fraction": lambda y1, x1, y2, x2: (x1, y1, x2, y2),
    "xywh-fraction": lambda x, y, w, h: (x, y, x + w, y + h),
}
YOLO_FORMATS = tuple(_CORNERS)


@dataclass(frozen=True)
class Shape:
    """The box of a row, pixels.

    Attributes:
        corners: x1, y1, x2, y2.
        polygons: x, y, x, y, ..., if the row is a polygon.
    """

    corners: _Corners
    polygons: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class RowFormat:
    """How rows are read.

    Attributes:
        box_format: What four numbers are, one of ``YOLO_FORMATS``; None for the center and size.
        keypoints: How many numbers of keypoints follow a box.
    """

    box_format: str | None = None
    keypoints: int = 0

    def shape_of(self, numbers: Sequence[float], size: tuple[int, int]) -> Shape:
        """Return the shape of a row.

        Raises:
            ValueError: The row has no such shape.
        """
        count = len(numbers)
        shown = " ".join(f"{value:g}" for value in numbers)[:60]
        if self.keypoints and count == 4 + self.keypoints:
            numbers = numbers[:4]
        elif self.keypoints and count != 4:
            raise ValueError(f"{count} numbers after the class; expected 4 of a box, or {4 + self.keypoints} with its "
                             "keypoints: check kpt_shape in data.yaml")  # fmt: skip
        if len(numbers) != 4 and (count < 6 or count % 2):
            score = " (is the last one a score?)" if count == 5 else ""
            raise ValueError(f"{count} numbers after the class{score}; {LINE}")
        if not all(math.isfinite(value) and 1 - _ROUNDED <= value <= _ROUNDED for value in numbers):
            raise ValueError(f"{shown} are not all between 0 and 1; {LINE}")
        if len(numbers) == 4:
            x1, y1, x2, y2 = _CORNERS[self.box_format or _CENTERED](*numbers)
            return Shape((x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1]))
        xs, ys = [x * size[0] for x in numbers[::2]], [y * size[1] for y in numbers[1::2]]
        polygon = [value for point in zip(xs, ys, strict=True) for value in point]
        return Shape((min(xs), min(ys), max(xs), max(ys)), [polygon])


def given_format(box_format: str | None, keypoints: int = 0) -> RowFormat:
    """Return what is known of the rows of a data set; a format that rows cannot have is refused later."""
    return RowFormat(box_format if box_format in YOLO_FORMATS else None, keypoints)


def recognize_rows(
    rows: Sequence[Sequence[float]],
    sizes: NDArray[np.float64],
    given: RowFormat,
    where: Callable[[int], str],
    notes: list[str],
) -> RowFormat:
    """Return how the rows of a data set are read.

    Args:
        rows: The numbers after the class of each row.
        sizes: [N, 2] width and height of the image of each row, pixels.
        given: What is known.
        where: Returns the file and line of a row.
        notes: Gets a note if the rows are not as they are given.

    Raises:
        DataError: The boxes of the rows are not their center and size.
    """
    keypoints = given.keypoints
    if not keypoints:
        keypoints, each = keypoint_numbers(rows)
        if keypoints:
            first = next(place for place, row in enumerate(rows) if len(row) > 4)
            notes.append(f"rows have a box and {keypoints // each:,} keypoints of {each} numbers, as {where(first)}; "
                         "the boxes are read, without the keypoints (kpt_shape is missing in data.yaml).")  # fmt: skip
    if given.box_format is None:
        _check_centered(rows, sizes, keypoints, where)
    return replace(given, keypoints=keypoints)


def _check_centered(
    rows: Sequence[Sequence[float]], sizes: NDArray[np.float64], keypoints: int, where: Callable[[int], str]
) -> None:
    places = [place for place, row in enumerate(rows) if len(row) in (4, 4 + keypoints)]
    boxes = np.array([rows[place][:4] for place in places], dtype=np.float64).reshape(-1, 4)
    formats, outside = likely_fractions(boxes, sizes[places])
    if not formats:
        return
    first = places[int(np.flatnonzero(outside)[0])]
    option = " or ".join(f"--box-format {name}" for name in formats)
    numbers = " ".join(f"{value:g}" for value in rows[first][:4])
    raise DataError(
        f"{where(first)}: {numbers} as the center and the size is a box outside of the image, and so are "
        f"{int(outside.sum()):,} of {len(boxes):,} boxes, but as {shown_formats(formats)} they fit. Expected x, y, "
        f"width, height of the center and size. {option} of ezsd init and ezsd convert converts the boxes; "
        f"if they are right, --box-format {_CENTERED} keeps them."
    )
