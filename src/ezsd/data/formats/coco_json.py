"""Parse and validate the rows of a COCO or LVIS annotation file."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezsd.errors import DataError
from ezsd.recipe import Part

_OVERHANG = 2.0  # pixels; annotation tools round, so overhangs up to this are clipped silently
_OTHER_CATEGORY, _BROKEN_CATEGORY = 0, -1
_NO_IMAGE, _LEFT_OUT = -1, -2


@dataclass
class Record:
    """An image entry of the annotation file."""

    image_id: int
    path: Path
    width: int
    height: int


@dataclass
class Boxes:
    """The annotations of the requested categories, in file order."""

    rows: list[dict[str, Any]]  # as in the file
    image: NDArray[np.int64]  # [N] index into the records, negative if the image is unknown
    labels: NDArray[np.int64]  # [N] 1-based
    boxes: NDArray[np.float32]  # [N, 4] xyxy pixels, clipped to the image
    good: NDArray[np.bool_]  # [N] False for invalid annotations


def read_annotations(path: Path) -> dict[str, list[Any]]:
    """Return the lists images, annotations and categories of a COCO or LVIS file.

    Raises:
        DataError: The file is missing, is not JSON, or lacks one of the lists.
    """
    expected = "Expected a COCO or LVIS JSON file with images, annotations and categories."
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"Annotations {path} are missing. {expected} Check data.*.annotations in the recipe.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"Annotations {path} cannot be read: {error}. {expected}") from None
    keys = ("images", "annotations", "categories")
    absent = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if absent:
        raise DataError(f"Annotations {path}: no list of {', '.join(absent)}. {expected}")
    return {key: content[key] for key in keys}


def find_labels(
    categories: list[Any], names: tuple[str, ...], required: Sequence[str]
) -> tuple[dict[int, int], list[str]]:
    """Return the label of each category id (0 = not requested), and the problems of the category list."""
    well_formed = [
        entry
        for entry in categories
        if isinstance(entry, dict) and isinstance(entry.get("id"), int) and isinstance(entry.get("name"), str)
    ]
    problems = [] if len(well_formed) == len(categories) else ["categories: each entry needs an integer id and a name."]
    ids = Counter(entry["id"] for entry in well_formed)
    counts = Counter(entry["name"] for entry in well_formed)
    problems += [
        f"category id {key} appears {count} times; ids must be unique." for key, count in ids.items() if count > 1
    ]
    problems += [f'category "{name}" appears {counts[name]} times; merge them.' for name in names if counts[name] > 1]
    spare = {_plain(name): name for name in counts if name not in names}
    for name in names:
        if name in counts:
            continue
        must = name in required
        close = difflib.get_close_matches(_plain(name), spare, n=1, cutoff=0.6 if must else 0.85)
        hint = f' Did you mean "{spare[close[0]]}"?' if close else ""
        if must or close:
            problems.append(f'no category "{name}"; the split must use the names of the annotations.{hint}')
    label = {name: index for index, name in enumerate(names, start=1)}
    return {entry["id"]: label.get(entry["name"], _OTHER_CATEGORY) for entry in well_formed}, problems


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").strip()


def find_records(images: list[Any], part: Part) -> tuple[list[Record], dict[int, int], list[str]]:
    """Return the images to use, the index of each image id among them, and the problems of the image list."""
    problems: list[str] = []
    by_id: dict[int, Record] = {}
    for place, entry in enumerate(images):
        record = _record(entry, part.images)
        if record is None:
            problems.append(
                f"images[{place}]: expected an integer id, width and height above 0, and a file_name; found "
                f"{str(entry)[:120]}"
            )
        elif record.image_id in by_id:
            problems.append(f"image id {record.image_id} appears more than once; ids must be unique.")
        else:
            by_id[record.image_id] = record
    records = [by_id[key] for key in sorted(by_id)][: part.limit]
    places = dict.fromkeys(by_id, _LEFT_OUT) | {record.image_id: place for place, record in enumerate(records)}
    return records, places, problems


def _record(entry: Any, folder: Path) -> Record | None:
    if not isinstance(entry, dict):
        return None
    image_id, width, height, name = entry.get("id"), entry.get("width"), entry.get("height"), entry.get("file_name")
    if name is None and isinstance(entry.get("coco_url"), str):
        name = "/".join(entry["coco_url"].split("/")[-2:])  # LVIS: train2017/000000000009.jpg
    if not (isinstance(image_id, int) and isinstance(width, int) and isinstance(height, int)):
        return None
    if not (width > 0 and height > 0 and isinstance(name, str) and name):
        return None
    return Record(image_id, folder / name, width, height)


def find_boxes(
    annotations: list[Any],
    label_of: dict[int, int],
    places: dict[int, int],
    records: list[Record],
    names: tuple[str, ...],
) -> tuple[Boxes, list[str]]:
    """Return the annotations of the requested categories, and the problems of the annotation list."""
    labels = [_looked_up(label_of, entry, "category_id", _BROKEN_CATEGORY) for entry in annotations]
    problems = [
        f"annotations[{place}]: unknown category_id in {str(annotations[place])[:120]}"
        for place, label in enumerate(labels)
        if label == _BROKEN_CATEGORY
    ]
    wanted = [(entry, label) for entry, label in zip(annotations, labels, strict=True) if label > 0]
    located = [_looked_up(places, entry, "image_id", _NO_IMAGE) for entry, _ in wanted]
    rows = [entry for (entry, _), place in zip(wanted, located, strict=True) if place != _LEFT_OUT]
    image = np.array([place for place in located if place != _LEFT_OUT], dtype=np.int64)
    kept = [label for (_, label), place in zip(wanted, located, strict=True) if place != _LEFT_OUT]
    xywh = np.fromiter(chain.from_iterable(map(_numbers, rows)), np.float64, 4 * len(rows)).reshape(-1, 4)
    sizes = np.array([(record.width, record.height) for record in records] or [(0, 0)], dtype=np.float64)[image]
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    limits = np.concatenate([sizes, sizes], axis=1)
    clipped = np.clip(corners, 0, limits).astype(np.float32)
    outside = ((corners < -_OVERHANG) | (corners > limits + _OVERHANG)).any(1)
    empty = ~(clipped[:, 2:] > clipped[:, :2]).all(1)
    reasons = np.select(
        [image < 0, ~np.isfinite(corners).all(1), outside, empty, _repeated(rows), _bad_segmentations(rows, sizes)],
        [1, 2, 3, 4, 5, 6],
        0,
    )
    for row in np.flatnonzero(reasons).tolist():
        problems.append(_box_problem(rows[row], names[kept[row] - 1], int(reasons[row]), sizes[row]))
    return Boxes(rows, image, np.array(kept, dtype=np.int64), clipped, reasons == 0), problems


def _looked_up(table: dict[int, int], entry: Any, key: str, otherwise: int) -> int:
    try:
        return table[entry[key]]
    except (KeyError, TypeError):
        return otherwise


def _numbers(entry: dict[str, Any]) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = entry["bbox"]
        return x + 0.0, y + 0.0, width + 0.0, height + 0.0
    except (KeyError, TypeError, ValueError, OverflowError):
        return (float("nan"),) * 4


def _repeated(rows: list[dict[str, Any]]) -> NDArray[np.bool_]:
    seen: set[int] = set()
    repeated = np.zeros(len(rows), dtype=np.bool_)
    for place, entry in enumerate(rows):
        key = entry.get("id")
        if isinstance(key, int):
            repeated[place] = key in seen
            seen.add(key)
    return repeated


def _bad_segmentations(rows: list[dict[str, Any]], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    bad = np.zeros(len(rows), dtype=np.bool_)
    for place, entry in enumerate(rows):
        segmentation = entry.get("segmentation")
        if segmentation:
            bad[place] = not _is_segmentation(segmentation, sizes[place])
    return bad


def _is_segmentation(segmentation: Any, size: NDArray[np.float64]) -> bool:
    """Return whether a segmentation is polygons of at least three points, or an RLE of size (width, height)."""
    if isinstance(segmentation, list):
        return all(map(_is_polygon, segmentation))
    if not isinstance(segmentation, dict) or segmentation.get("size") != [size[1], size[0]]:
        return False
    counts = segmentation.get("counts")
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list):
        return False
    return all(isinstance(run, int) and run >= 0 for run in runs) and sum(runs) == size[0] * size[1]


def _is_polygon(polygon: Any) -> bool:
    try:
        return len(polygon) >= 6 and len(polygon) % 2 == 0 and math.isfinite(sum(polygon))
    except (TypeError, OverflowError):
        return False


def _unpacked(counts: str) -> list[int] | None:
    """Decode the run lengths of a compressed COCO RLE (``rleFrString`` of cocoapi); None if the string is truncated.

    A character holds six bits. From the fourth run on, a run is stored as the difference to the run two before it.
    """
    runs: list[int] = []
    value = shift = 0
    for code in counts.encode():
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16 and 1) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs


def _box_problem(entry: dict[str, Any], name: str, reason: int, size: NDArray[np.float64]) -> str:
    reasons_text = {
        1: f"unknown image_id {entry.get('image_id')!r}",
        2: f"bbox {str(entry.get('bbox'))[:80]}; expected four numbers x, y, width, height in pixels",
        3: f"bbox {entry.get('bbox')} is outside the image of {size[0]:.0f} x {size[1]:.0f} pixels",
        4: f"bbox {entry.get('bbox')} has no area",
        5: "an earlier annotation has the same id; ids must be unique",
        6: "invalid segmentation; expected polygons of at least three points or an RLE of the image size",
    }
    return f"annotation {entry.get('id')} ({name}, image {entry.get('image_id')}): {reasons_text[reason]}"
