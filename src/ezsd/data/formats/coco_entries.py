"""Categories and images of a COCO or LVIS annotation file."""

from __future__ import annotations

import difflib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ezsd.data.formats.coco_json import LABEL_FILE, Annotations, key_of, shown
from ezsd.data.formats.image_files import find_files, shown_name
from ezsd.data.formats.problems import Problems
from ezsd.recipe import Part
from ezsd.utils.format import counted

OTHER_CATEGORY = 0
LEFT_OUT = -2  # an image that exists, but is not used
LARGEST_ID = 2**53  # the evaluator computes with float64


@dataclass(slots=True)
class Record:
    """An image entry of the annotation file.

    Attributes:
        image_id: The id.
        path: The image file.
        width: The width in the entry; None if it has no usable number.
        height: The height in the entry; None if it has no usable number.
        label_file: The file with the boxes of the image, from which ezsd made the annotation file; else an empty text.
    """

    image_id: int
    path: Path
    width: int | None
    height: int | None
    label_file: str = ""


@dataclass(frozen=True)
class Labels:
    """The labels of the categories.

    Attributes:
        names: The names. Label 1 is the first.
        label_of: The label by category id; 0 = not requested.
        problems: What is wrong with the categories.
    """

    names: tuple[str, ...]
    label_of: dict[Any, int]
    problems: Problems


@dataclass(frozen=True)
class Records:
    """The images to use.

    Attributes:
        records: The images, sorted by id.
        places: The index in ``records`` by image id as in the file; ``LEFT_OUT`` for images that are not used.
        problems: What is wrong with single images.
        twice: Images that are one file; the whole annotation file is then unusable.
        notes: What was read in an unusual way.
        other_suffix: The file that differs from a missing image by its suffix only, by path of the image.
    """

    records: list[Record]
    places: dict[Any, int]
    problems: Problems
    twice: Problems
    notes: list[str]
    other_suffix: dict[Path, Path]


def find_labels(content: Annotations, names: Sequence[str] | None, required: Sequence[str] = ()) -> Labels:
    """Return the labels of the requested names; None requests the names of all categories, by category id.

    Of categories with the same name, those without annotations are ignored: exports have a parent category that is
    named like one of its children.
    """
    problems = Problems()
    keys_of: dict[str, list[Any]] = defaultdict(list)
    label_of: dict[Any, int] = {}
    for place, entry in enumerate(content.categories):
        key, name = (key_of(entry.get("id")), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if key is None or not isinstance(name, str):
            number = " The name is a number; put it in quotes, and use a word that a teacher can read."
            problems.add("categories", f"categories[{place}]: each entry needs an id and a name, which is text; found "
                         f"{shown(entry)}.{number if isinstance(name, (int, float)) else ''}")  # fmt: skip
        else:
            keys_of[name].append(key)
        if key is not None:
            label_of[key] = OTHER_CATEGORY
    for key, count in Counter(key for keys in keys_of.values() for key in keys).items():
        if count > 1:
            problems.add("category ids", f"category id {key} appears {count} times; ids must be unique.")
    if names is None:
        first = sorted(keys_of, key=lambda name: (isinstance(keys_of[name][0], str), keys_of[name][0]))
        names = tuple(name for name in first if name.strip())
    boxes: Counter[Any] | None = None
    for label, name in enumerate(names, start=1):
        keys = keys_of.get(name, [])
        if len(keys) > 1:
            boxes = Counter(content.category_keys) if boxes is None else boxes
            keys = [key for key in keys if boxes[key]] or keys[:1]
        if len(keys) > 1:
            problems.add("category names", f'category "{name}" appears {len(keys)} times; merge them.')
        label_of |= dict.fromkeys(keys, label)
    for problem in _missing_names(names, keys_of, required):
        problems.add("missing names", problem)
    return Labels(tuple(names), label_of, problems)


def _missing_names(names: Sequence[str], known: dict[str, list[Any]], required: Sequence[str]) -> list[str]:
    problems = []
    spare = {_plain(name): name for name in known if name not in names}
    for name in names:
        if name in known:
            continue
        must = name in required
        close = difflib.get_close_matches(_plain(name), spare, n=1, cutoff=0.6 if must else 0.85)
        hint = f' Did you mean "{spare[close[0]]}"?' if close else ""
        if must or close:
            problems.append(f'no category "{name}"; the split must use the names of the annotations.{hint}')
    return problems


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").strip()


def image_ids(images: Sequence[Any]) -> list[int | None]:
    """Return a whole number for each image entry; None if it has no id.

    These are the ids of the file. If any of them is text, negative or above 2^53, images are numbered in the order of
    the file instead.
    """
    keys = [key_of(entry.get("id")) if isinstance(entry, dict) else None for entry in images]
    if all(key is None or (isinstance(key, int) and 0 <= key <= LARGEST_ID) for key in keys):
        return keys
    return [None if key is None else place for place, key in enumerate(keys, start=1)]


def find_records(images: list[Any], part: Part) -> Records:
    """Return the images to use, and find their files."""
    problems = Problems()
    by_id: dict[int, tuple[Any, str, dict[str, Any]]] = {}
    places: dict[Any, int] = {}
    for place, (image_id, entry) in enumerate(zip(image_ids(images), images, strict=True)):
        key = key_of(entry.get("id")) if isinstance(entry, dict) else None
        name = entry_file_name(entry) if isinstance(entry, dict) else None
        if image_id is None or not name:
            problems.add("image entries", f"images[{place}]: expected an id and a file_name; found {shown(entry)}")
        elif key in places:
            problems.add("image ids", f"image id {key} appears more than once; ids must be unique.")
            if image_id in by_id and by_id[image_id][1] != name:
                del by_id[image_id]  # boxes with this id can be of either image
        else:
            by_id[image_id] = key, name, entry
        if key is not None:
            places[key] = LEFT_OUT
    used = sorted(by_id)[: part.limit]
    found = find_files(part.images, [by_id[image_id][1] for image_id in used])
    records: list[Record] = []
    twice, owners = Problems(), dict[Path, Any]()
    for place, image_id in enumerate(used):
        key, _, entry = by_id[image_id]
        if place in found.refused:
            problems.add("file names", f"image {key}: {found.refused[place]}")
            continue
        if (owner := owners.setdefault(found.paths[place], key)) != key:
            twice.add("images of one file", f"images {owner} and {key} are one file, {found.paths[place]}. Join "
                      "the two entries, or remove one: each would lack the boxes of the other.")  # fmt: skip
        places[key] = len(records)
        sides = _side(entry.get("width")), _side(entry.get("height"))
        records.append(Record(image_id, found.paths[place], *sides, _label_file(entry, part.images)))
    notes = [*_id_notes(used, by_id), *_name_notes(found.renamed)]
    other_suffix = {found.paths[place]: other for place, other in found.other_suffix.items()}
    return Records(records, places, problems, twice, notes, other_suffix)


def _id_notes(used: list[int], by_id: dict[int, tuple[Any, str, dict[str, Any]]]) -> list[str]:
    changed = [(by_id[image_id][0], image_id) for image_id in used if by_id[image_id][0] != image_id]
    if not changed:
        return []
    key, image_id = changed[0]
    return [f"Image ids that are text, negative or above 2^53 are replaced by numbers in the order of the file, in all "
            f"results: {str(key)[:40]!r} is {image_id}."]  # fmt: skip


def _name_notes(renamed: list[tuple[str, Path]]) -> list[str]:
    if not renamed:
        return []
    name, path = renamed[0]
    return [f"{counted(len(renamed), 'image is', 'images are')} found under another name than in the annotations: "
            f'"{shown_name(name)}" is {path}.']  # fmt: skip


def entry_file_name(entry: dict[str, Any]) -> str | None:
    """Return the file name of an image entry; LVIS files have it in ``coco_url``."""
    name = entry.get("file_name")
    if name is None and isinstance(entry.get("coco_url"), str):
        return "/".join(entry["coco_url"].split("/")[-2:])  # LVIS: train2017/000000000009.jpg
    return name if isinstance(name, str) else None


def _label_file(entry: dict[str, Any], images: Path) -> str:
    given = entry.get(LABEL_FILE)
    return os.path.normpath(images / given) if isinstance(given, str) and given else ""


def _side(value: Any) -> int | None:
    """Return a side in pixels; None if it is no positive whole number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    whole = number.is_integer() and 0 < number < 1e9 and not isinstance(value, bool)
    return int(number) if whole else None
