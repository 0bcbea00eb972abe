"""Boxes that are two corners, as in VOC, CVAT and LabelMe files: pixels, unless all of them together are not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ezsd.data.formats.box_formats import likely_unit, pixels_of_one
from ezsd.data.formats.content import CocoContent
from ezsd.data.formats.recognize import Source
from ezsd.errors import DataError

CORNER_FORMATS = ("xyxy", "xyxy-fraction", "xyxy-percent")


def corner_sources(
    contents: Mapping[str, CocoContent], folder: Path, box_format: str | None, first_pixel: float = 0
) -> dict[str, Source]:
    """Return the parts of a data set with boxes in pixels.

    Args:
        contents: The content of each part, with corners as in the files.
        folder: The folder that file names are relative to.
        box_format: One of ``CORNER_FORMATS``; None if they should be pixels.
        first_pixel: The number of the first pixel in corners in pixels whose last pixel is included.

    Raises:
        DataError: The corners should be pixels, and are not.
    """
    sizes = {part: content.sizes(folder) for part, content in contents.items()}
    if box_format is None:
        _check_pixels(contents, np.concatenate([np.zeros((0, 2)), *sizes.values()]))
    unit = (box_format or "").partition("-")[2]
    if not unit:
        return {part: Source(folder, content=each.as_dict(None, first_pixel)) for part, each in contents.items()}
    scales = {part: pixels_of_one(size, unit) for part, size in sizes.items()}
    return {part: Source(folder, content=content.as_dict(scales[part])) for part, content in contents.items()}


def around_rotated(x: float, y: float, width: float, height: float, radians: float) -> tuple[float, ...]:
    """Return the corners of the upright box around a rotated one with this center and these sides."""
    cosine, sine = abs(math.cos(radians)) / 2, abs(math.sin(radians)) / 2
    across, down = width * cosine + height * sine, width * sine + height * cosine
    return x - across, y - down, x + across, y + down


def _check_pixels(contents: Mapping[str, CocoContent], sizes: np.ndarray) -> None:
    corners = np.concatenate([np.zeros((0, 4)), *(content.corners() for content in contents.values())])
    used = (corners[:, 2:] > 0).all(axis=1)
    unit = likely_unit(corners[used], sizes[used]).removeprefix("-")
    if not unit:
        return
    names = [content.file_name(box) for content in contents.values() for box in range(len(content.corners()))]
    first = int(np.flatnonzero(used)[0])
    what = {"fraction": "between 0 and 1, which are fractions", "percent": "up to 100, which are percent"}
    raise DataError(
        f"The boxes have numbers {what[unit]} of the image sides: the first of {len(corners):,} is "
        f"{corners[first].round(4).tolist()} in {names[first]}. Expected corners in pixels. --box-format "
        f"xyxy-{unit} of ezsd init and ezsd convert converts the boxes; if they are pixels, --box-format xyxy keeps "
        "them."
    )
