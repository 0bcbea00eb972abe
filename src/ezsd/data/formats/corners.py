"""Boxes that are two corners in pixels, as in VOC, CVAT and LabelMe files, unless all of them together are not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ezsd.data.formats.box_formats import BOX_FORMATS, likely_formats, shown_formats
from ezsd.data.formats.content import CocoContent
from ezsd.data.formats.recognize import Source
from ezsd.errors import DataError

CORNER_FORMATS = tuple(name for name in BOX_FORMATS if name.partition("-")[0] == "xyxy")


def corner_sources(
    contents: Mapping[str, CocoContent],
    folder: Path,
    box_format: str | None,
    first_pixel: float = 0,
    formats: Sequence[str] = CORNER_FORMATS,
) -> dict[str, Source]:
    """Return the parts of a data set with boxes in pixels.

    Args:
        contents: The content of each part, with corners as in the files.
        folder: The folder that file names are relative to.
        box_format: One of ``formats``; None if they should be corners in pixels.
        first_pixel: The number of the first pixel in corners in pixels whose last pixel is included.
        formats: What the corners in the files can be by mistake.

    Raises:
        DataError: The corners should be pixels, and are not.
    """
    sizes = {part: content.sizes(folder) for part, content in contents.items()}
    if box_format is None:
        _check_corners(contents, np.concatenate([np.zeros((0, 2)), *sizes.values()]), formats)
    if box_format in (None, "xyxy"):
        return {part: Source(folder, content=each.as_dict(first_pixel=first_pixel)) for part, each in contents.items()}
    return {
        part: Source(folder, content=content.as_dict(box_format, sizes[part])) for part, content in contents.items()
    }


def around_rotated(x: float, y: float, width: float, height: float, radians: float) -> tuple[float, ...]:
    """Return the corners of the upright box around a rotated one with this center and these sides."""
    cosine, sine = abs(math.cos(radians)) / 2, abs(math.sin(radians)) / 2
    across, down = width * cosine + height * sine, width * sine + height * cosine
    return x - across, y - down, x + across, y + down


def _check_corners(contents: Mapping[str, CocoContent], sizes: np.ndarray, formats: Sequence[str]) -> None:
    corners = np.concatenate([np.zeros((0, 4)), *(content.corners() for content in contents.values())])
    likely = [name for name in likely_formats(corners, sizes, expected="xyxy") if name in formats]
    if not likely:
        return
    likely = [name for name in likely if name in CORNER_FORMATS] or likely  # the files say that these are corners
    unit = likely[0].partition("-")[2]
    names = [content.file_name(box) for content in contents.values() for box in range(len(content.corners()))]
    first = int(np.flatnonzero((corners[:, 2:] != 0).all(axis=1))[0])
    what = {
        "fraction": "The boxes have numbers between 0 and 1, which are fractions of the image sides",
        "percent": "The boxes have numbers up to 100, which are percent of the image sides",
    }.get(unit, f"The boxes do not fit as corners in pixels, but as {shown_formats(likely)}")
    option = " or ".join(f"--box-format {name}" for name in likely)
    raise DataError(
        f"{what}: the first of {len(corners):,} is {corners[first].round(4).tolist()} in {names[first]}. Expected "
        f"corners in pixels. {option} of ezsd init and ezsd convert converts the boxes; if they are pixels, "
        "--box-format xyxy keeps them."
    )
