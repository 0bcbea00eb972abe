"""Parse a COCO or LVIS annotation file into columns that take little memory."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezsd.data.formats.segmentations import box_around
from ezsd.data.formats.text_files import as_text
from ezsd.errors import DataError
from ezsd.utils.memory import paused_garbage_collection

_LISTS = ("images", "annotations", "categories")
_EXPECTED = "Expected a COCO or LVIS JSON file with images, annotations and categories."
_TRUE, _FALSE = ("1", "true", "yes"), ("", "0", "false", "no", "none", "null", "nan")
BROKEN_FLAG = -1
IN_PIXELS = {"boxes": "x, y, width, height in pixels"}  # in info: boxes that need not be recognized
OF_INIT = {"written_by": "ezsd init"}  # in info
OF_CONVERT = {"written_by": "ezsd convert"}  # in info
LABEL_FILE = "label_file"  # in an image of ezsd: the file with its boxes, relative to the folder of the images
LABEL_PLACE = "label_place"  # in an annotation of ezsd: where the box is in that file
_INFO_BYTES = 200  # at the beginning of a file, in which ezsd writes its info


@dataclass(frozen=True, eq=False)
class Annotations:
    """The content of an annotation file.

    Attributes:
        images: The entries of the images.
        categories: The entries of the categories.
        ids: [N] the id of each annotation; it can be anything.
        image_keys: [N] the image id of each annotation, see :func:`key_of`.
        category_keys: [N] the category id of each annotation, see :func:`key_of`.
        boxes: [N, 4] float64, four numbers as in the file (for COCO x, y, width, height); NaN if they are not numbers.
        areas: [N] float64 as in the file, NaN if it is not a number.
        crowd: [N] int8: 1 for crowd boxes, 0 for others, -1 if iscrowd is neither.
        segmentations: [N] polygons (arrays) or RLE as in the file, or None.
        places: [N] where the box is in its label file, such as "line 3", if ezsd wrote the file; else None.
        drawn: [N] whether the box is the one around the segmentation, because the file has none.
        odd: The entries that are not as expected, without their segmentations, by index.
        in_pixels: Whether the file says that its boxes are x, y, width, height in pixels.
    """

    images: list[Any]
    categories: list[Any]
    ids: list[Any]
    image_keys: list[Any]
    category_keys: list[Any]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.int8]
    segmentations: list[Any]
    places: list[str | None]
    drawn: NDArray[np.bool_]
    odd: dict[int, Any]
    in_pixels: bool = False


def read_annotations(path: Path) -> Annotations:
    """Return the content of a COCO or LVIS file. A file that has not changed is parsed only once.

    Raises:
        DataError: The file is missing, is not JSON, or lacks one of the lists.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise DataError(
            f"Annotations {path} are missing. {_EXPECTED} Check data.*.annotations in the recipe."
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"Annotations {path} cannot be read: {error}. {_EXPECTED}") from None
    return _read(path.absolute(), path, status.st_mtime_ns, status.st_size)


def as_annotations(content: Mapping[str, Any]) -> Annotations:
    """Return the content of a COCO file as columns."""
    rows = _Rows()
    entries = [rows.take(entry) if isinstance(entry, dict) else entry for entry in content["annotations"]]
    columns = rows.columns(content["images"], content["categories"], entries)
    return replace(columns, in_pixels=_says_pixels(content))


def is_of_init(path: Path) -> bool:
    """Return whether ``ezsd init`` wrote a file."""
    try:
        with path.open("rb") as file:
            return json.dumps(OF_INIT)[1:-1].encode() in file.read(_INFO_BYTES)
    except OSError:
        return False


def _says_pixels(content: Mapping[str, Any]) -> bool:
    info = content.get("info")
    return isinstance(info, dict) and info.items() >= IN_PIXELS.items()


def read_json_file(path: Path) -> Any:
    """Return the content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without byte order mark.

    Raises:
        DataError: The file cannot be read or is not JSON.
    """
    try:
        content = path.read_bytes()
        return json.loads(as_text(content, json.detect_encoding(content), "surrogatepass"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from None


def key_of(value: Any) -> Any:
    """Return an id as whole number or text, so that 1 and 1.0 are the same; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def looked_up(table: dict[Any, int], keys: list[Any], otherwise: int) -> list[int]:
    """Look up ids; an id that is a number in one list and text in the other is found, too."""
    return [found if (found := table.get(key)) is not None else table.get(_other_type(key), otherwise) for key in keys]


def _other_type(key: Any) -> Any:
    if isinstance(key, str):
        return int(key) if key.isdecimal() and len(key) < 20 else None
    return str(key)


@lru_cache(maxsize=2)
@paused_garbage_collection()  # JSON has no cycles
def _read(absolute: Path, path: Path, modified: int, size: int) -> Annotations:
    """Parse a file; ``absolute``, ``modified`` and ``size`` tell whether it is the same as before."""
    try:
        data = absolute.read_bytes()
        text = as_text(data, json.detect_encoding(data), "surrogatepass")
        del data  # a file of COCO has half a gigabyte
        rows = _Rows()
        content = json.loads(text, object_hook=rows.take)
        del text
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"Annotations {path} cannot be read: {error}. {_EXPECTED}") from None
    absent = [key for key in _LISTS if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if absent:
        raise DataError(f"Annotations {path}: no list of {', '.join(absent)}. {_EXPECTED}")
    columns = rows.columns(content["images"], content["categories"], content["annotations"])
    return replace(columns, in_pixels=_says_pixels(content))


class _Row(int):
    """The place of an annotation among the rows."""

    __slots__ = ()


class _Rows:
    """Columns of the annotations, filled while a file is parsed, so that it is never in memory as a whole."""

    def __init__(self) -> None:
        self.ids: list[Any] = []
        self.image_keys: list[Any] = []
        self.category_keys: list[Any] = []
        self.boxes = array("d")
        self.areas = array("d")
        self.crowd = array("b")
        self.segmentations: list[Any] = []
        self.places: list[str | None] = []
        self.drawn = array("b")
        self.odd: dict[int, Any] = {}
        self._known: dict[Any, Any] = {}  # one object for each id of an image

    def take(self, entry: dict[str, Any]) -> Any:
        """Add an annotation and return its row; return any other JSON object as it is."""
        if "category_id" not in entry or "file_name" in entry:
            return entry
        get = entry.get
        row, box, crowd = len(self.ids), _four_numbers(get("bbox")), flag_of(get("iscrowd"))
        segmentation = packed_segmentation(get("segmentation"))
        drawn = segmentation is not None and (not get("bbox") or not any(box))
        if drawn:
            box = box_around(segmentation)
        if crowd == BROKEN_FLAG or not math.isfinite(sum(box)):
            self.odd[row] = {key: value for key, value in entry.items() if key != "segmentation"}
        image, category = get("image_id"), get("category_id")
        self.ids.append(get("id"))
        key = image if image.__class__ is int else key_of(image)
        self.image_keys.append(self._known.setdefault(key, key))
        self.category_keys.append(category if category.__class__ is int else key_of(category))
        self.boxes.extend(box)
        self.areas.append(_number(get("area")))
        self.crowd.append(crowd)
        self.segmentations.append(segmentation)
        self.drawn.append(drawn)
        place = get(LABEL_PLACE)
        self.places.append(intern(place) if isinstance(place, str) else None)
        return _Row(row)

    def _empty(self, entry: Any) -> _Row:
        row: _Row = self.take({"category_id": None})
        self.odd[row] = entry
        return row

    def columns(self, images: list[Any], categories: list[Any], entries: list[Any]) -> Annotations:
        """Return the rows of ``entries``, in order; an entry that is no annotation gets an empty row."""
        places = [entry if isinstance(entry, _Row) else self._empty(entry) for entry in entries]
        order = np.array(places, dtype=np.int64)
        return Annotations(
            images,
            categories,
            [self.ids[row] for row in places],
            [self.image_keys[row] for row in places],
            [self.category_keys[row] for row in places],
            np.array(self.boxes, dtype=np.float64).reshape(-1, 4)[order],
            np.array(self.areas, dtype=np.float64)[order],
            np.array(self.crowd, dtype=np.int8)[order],
            [self.segmentations[row] for row in places],
            [self.places[row] for row in places],
            np.array(self.drawn, dtype=np.bool_)[order],
            {place: self.odd[row] for place, row in enumerate(places) if row in self.odd} if self.odd else {},
        )


def packed_segmentation(segmentation: Any) -> Any:
    """Return polygons as arrays, an RLE as it is, None for no segmentation; anything else as it is."""
    if segmentation.__class__ is not list:
        missing = segmentation is None or (isinstance(segmentation, float) and segmentation != segmentation)
        return None if missing or segmentation == {} or segmentation == "" else segmentation
    if segmentation and all(isinstance(value, (int, float)) for value in segmentation):
        segmentation = [segmentation]  # one polygon without its list
    try:
        return [array("d", polygon) for polygon in segmentation if polygon] or None
    except (TypeError, OverflowError):
        return segmentation


def shown(entry: Any) -> str:
    """Return the beginning of an entry as text."""
    if isinstance(entry, dict):
        entry = {key: value for key, value in entry.items() if key != "segmentation"}
    return repr(entry)[:120]


def _four_numbers(bbox: Any) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = bbox
        return float(x), float(y), float(width), float(height)
    except (TypeError, ValueError, OverflowError):
        return (float("nan"),) * 4


def _number(value: Any) -> float:
    try:
        return float(value) if abs(float(value)) < 1e38 else float("nan")
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def flag_of(value: Any) -> int:
    """Return 0 or 1 for the ways in which files say so, and -1 for anything else."""
    if value.__class__ is int and 0 <= value <= 1:
        return int(value)
    text = str(value).strip().lower().removesuffix(".0")
    return 1 if text in _TRUE else 0 if text in _FALSE else BROKEN_FLAG
