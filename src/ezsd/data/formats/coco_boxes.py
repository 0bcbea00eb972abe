"""Boxes of a COCO or LVIS annotation file: which are valid, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezsd.data.formats.box_formats import is_fraction, is_outside, likely_formats, shown_formats
from ezsd.data.formats.coco_entries import LEFT_OUT, Labels
from ezsd.data.formats.coco_json import BROKEN_FLAG, Annotations, looked_up, shown
from ezsd.data.formats.problems import Problems

_NO_IMAGE, _BROKEN_CATEGORY = -1, -1
_FROM_ZERO = (
    "The boxes count categories from 0, and the categories are numbered from 1: no category has id 0, and no box has "
    "category_id {}. Names would be shifted. Export the boxes again, or add 1 to every category_id."
)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # makes different boxes different numbers
_KINDS = {
    1: "unknown images",
    2: "boxes without four numbers",
    3: "iscrowd that is neither 0 nor 1",
    4: "boxes outside the image",
    5: "boxes with numbers between 0 and 1",
    6: "boxes with a negative side",
    (_NO_AREA := 7): "boxes without area",
}


@dataclass(frozen=True)
class Boxes:
    """The valid boxes of the requested categories, grouped by image.

    Attributes:
        rows: [N] index in the annotations.
        image: [N] index of the image, ascending.
        labels: [N] 1-based.
        boxes: [N, 4] float32 xyxy pixels, clipped to the image.
        of_file: A problem of all boxes together.
        of_items: Problems of single boxes.
        left_out: Messages on boxes without width or height; they are left out.
    """

    rows: NDArray[np.int64]
    image: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]
    of_file: Problems = field(default_factory=Problems)
    of_items: Problems = field(default_factory=Problems)
    left_out: Problems = field(default_factory=Problems)


def find_boxes(
    content: Annotations,
    labels: Labels,
    places: dict[Any, int],
    sizes: Sequence[tuple[int, int] | None],
    label_files: Sequence[str],
) -> Boxes:
    """Return the valid boxes of the requested categories.

    Args:
        content: The annotations.
        labels: The label of each category id.
        places: The index of each image id.
        sizes: Width and height of each image; None for images that cannot be used. Their boxes are left out.
        label_files: The file with the boxes of each image if it is not the annotation file; else an empty text.
    """
    label = np.array(looked_up(labels.label_of, content.category_keys, _BROKEN_CATEGORY), dtype=np.int64)
    of_file, of_items = Problems(), Problems()
    broken = np.flatnonzero(label == _BROKEN_CATEGORY).tolist()
    if broken and (largest := _counted_from_zero(content, labels)):
        of_file.add("categories", _FROM_ZERO.format(largest))
    for row in [] if of_file else broken:
        entry = shown(content.odd[row]) if row in content.odd else _brief(content, row)
        of_items.add("unknown categories", f"annotations[{row}]: unknown category_id in {entry}")
    rows = np.flatnonzero(label > 0)
    keys = [content.image_keys[row] for row in rows.tolist()]
    image = np.array(looked_up(places, keys, _NO_IMAGE), dtype=np.int64)
    usable = np.array([*(size is not None for size in sizes), True, False])  # -1: unknown, -2: left out
    kept = usable[np.where(image == LEFT_OUT, len(sizes) + 1, np.where(image == _NO_IMAGE, len(sizes), image))]
    rows, image = rows[kept], image[kept]
    size = np.array([*(size or (1, 1) for size in sizes), (1, 1)], dtype=np.float64)[image]
    return _checked(content, labels, (rows, image, label[rows]), size, (of_file, of_items, label_files))


def _counted_from_zero(content: Annotations, labels: Labels) -> int | None:
    """Return the largest category id if boxes have the ids 0 to that minus 1, and the categories begin with 1."""
    used = set(content.category_keys)
    known = {key for key in labels.label_of if isinstance(key, int)}
    shifted = 0 in used and known and min(known) == 1 and max(known) not in used
    return max(known) if shifted else None


def _checked(
    content: Annotations,
    labels: Labels,
    columns: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    size: NDArray[np.float64],
    messages: tuple[Problems, Problems, Sequence[str]],
) -> Boxes:
    rows, image, label = columns
    of_file, of_items, label_files = messages
    xywh = content.boxes[rows]
    finite: NDArray[np.bool_] = np.all(np.abs(np.nan_to_num(xywh, nan=np.inf)) < 1e9, axis=1)
    xywh = np.where(finite[:, None], xywh, 0.0)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    clipped = np.clip(corners, 0, np.concatenate([size, size], axis=1)).astype(np.float32)
    negative = (xywh[:, 2:] < 0).any(1)
    empty = ~(clipped[:, 2:] > clipped[:, :2]).all(1)
    outside, fraction = is_outside(xywh, size), is_fraction(xywh, size) & ~empty & (not content.in_pixels)
    known = image >= 0
    reasons = np.select(
        [~known, ~finite, content.crowd[rows] == BROKEN_FLAG, negative, outside, fraction, empty],
        [1, 2, 3, 6, 4, 5, _NO_AREA],
        0,
    )
    usable = known & finite
    areas = content.areas[rows[usable]]
    formats = () if content.in_pixels else likely_formats(xywh[usable], size[usable], areas)
    if formats:
        of_file.add("boxes", _format_problem(content, rows[usable], formats))
    left_out = Problems()
    for index in [] if formats else np.flatnonzero(reasons).tolist():
        reason, row = int(reasons[index]), int(rows[index])
        label_file = label_files[image[index]] if image[index] >= 0 else ""
        where = f"{label_file}, {content.places[row]}" if label_file and content.places[row] else ""
        text = _problem(content, row, labels.names[label[index] - 1], reason, size[index])
        found = left_out if reason == _NO_AREA else of_items
        found.add(_KINDS[reason], text, where)
    good = np.flatnonzero(reasons == 0)
    order = good[np.argsort(image[good], kind="stable")]
    return Boxes(rows[order], image[order], label[order], clipped[order], of_file, of_items, left_out)


def copies(boxes: Boxes, crowd: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the indices of boxes that repeat another box of the same image and category, ascending.

    Args:
        boxes: The boxes.
        crowd: [N] whether a box is a crowd box.
    """
    key = boxes.image.astype(np.uint64)
    for column in (boxes.labels, crowd, *boxes.boxes.view(np.uint32).T):  # one number for each box: fast to sort
        key = key * _SPREAD + column.astype(np.uint64)
    order = np.argsort(key, kind="stable")
    found: NDArray[np.int64] = np.sort(order[1:][key[order[1:]] == key[order[:-1]]])
    return found


def _problem(content: Annotations, row: int, name: str, reason: int, size: NDArray[np.float64]) -> str:
    box = [int(value) if value.is_integer() else value for value in map(float, content.boxes[row])] \
        if np.isfinite(content.boxes[row]).all() else shown(content.odd[row])  # fmt: skip
    in_file = "" if content.places[row] is None else " (x, y, width, height in pixels)"
    texts = {
        1: f"unknown image_id {content.image_keys[row]!r}",
        2: f"expected a bbox of four numbers x, y, width, height in pixels, found {box}",
        3: f"iscrowd is neither 0 nor 1 in {box}",
        4: f"bbox {box}{in_file} is outside the image of {size[0]:.0f} x {size[1]:.0f} pixels",
        5: f"bbox {box}{in_file} has numbers between 0 and 1; expected pixels",
        6: f"bbox {box}{in_file} has a negative side",
        _NO_AREA: f"bbox {box}{in_file} has no area",
    }
    if in_file:
        return f"{name}: {texts[reason]}"
    return f"annotation {content.ids[row]} ({name}, image {content.image_keys[row]}): {texts[reason]}"


def _format_problem(content: Annotations, rows: NDArray[np.int64], formats: Sequence[str]) -> str:
    unit = formats[0].partition("-")[2]
    what = {
        "fraction": "Boxes have numbers between 0 and 1, which are fractions of the image sides",
        "percent": "All boxes have numbers up to 100, which are percent of the image sides",
    }.get(unit, f"The boxes do not fit as x, y, width, height, but as {shown_formats(formats)}")
    first = content.boxes[rows[0]].round(4).tolist()
    option = " or ".join(f"--box-format {name}" for name in formats)
    return (
        f"{what}: the first of {len(rows):,} is bbox {first} of annotation {content.ids[int(rows[0])]}. "
        f"Expected x, y, width, height in pixels. {option} of ezsd init and ezsd convert converts the boxes; if they "
        "are right, --box-format xywh keeps them."
    )


def _brief(content: Annotations, row: int) -> str:
    return (f"{{'id': {content.ids[row]}, 'image_id': {content.image_keys[row]}, "
            f"'category_id': {content.category_keys[row]}}}")  # fmt: skip
