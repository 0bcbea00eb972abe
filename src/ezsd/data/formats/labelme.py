"""LabelMe data sets: a JSON file with shapes for each image."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from ezsd.data.formats.coco_json import read_json_file
from ezsd.data.formats.content import CocoContent
from ezsd.data.formats.corners import corner_sources
from ezsd.data.formats.file_heads import head_of
from ezsd.data.formats.image_files import IMAGE_SUFFIXES
from ezsd.data.formats.problems import Problems
from ezsd.data.formats.recognize import DataSet, part_of
from ezsd.data.formats.voc_images import VocImages, unlabelled_notes
from ezsd.errors import DataError

_PARTS = ("train", "val", "test")
_BOXES = ("rectangle", "rotation", "mask")  # rotation: the corners of a rotated box of X-AnyLabeling
_POLYGONS = ("polygon", "quadrilateral")


def open_labelme(folder: Path, files: list[Path], box_format: str | None = None) -> DataSet | None:
    """Read the JSON files of a data set, or return None if there are none. Parts are folders with their names.

    Rectangles, also rotated ones, polygons, circles and masks become upright boxes (polygons also masks); other shapes
    are left out, with a note.

    Raises:
        DataError: Files cannot be read. All problems are reported.
    """
    files = [path for path in files if path.suffix.lower() == ".json" and _is_labelme(path)]
    if not files:
        return None
    problems, left_out = Problems(), Counter[str]()
    by_part: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        by_part[part_of(path.parent, folder) or "train"].append(path)
    images = VocImages(folder)
    contents = {part: _read(by_part[part], (folder, images), problems, left_out) for part in _PARTS if part in by_part}
    if problems:
        raise DataError(problems.shown())
    parts = corner_sources(contents, folder, box_format)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in left_out.items())
    used = [name for content in contents.values() for name in content.file_names]
    notes = unlabelled_notes(images, folder, used, "JSON")
    if kinds:
        notes = (f"Shapes without a box are left out: {kinds}.", *notes)
    return DataSet(f"LabelMe, {len(files):,} JSON files: parts {', '.join(parts)}", parts, notes)


def _is_labelme(path: Path) -> bool:
    head = head_of(path)
    return '"shapes":[' in head or '"imagePath":' in head or '"imageData":' in head


def _read(
    files: Sequence[Path], data_set: tuple[Path, VocImages], problems: Problems, left_out: Counter[str]
) -> CocoContent:
    content, owners = CocoContent(), dict[Path, Path]()
    folder, images = data_set
    for path in files:
        try:
            values = read_json_file(path)
        except DataError as error:
            problems.add("JSON files", str(error))
            continue
        shapes = values.get("shapes") if isinstance(values, dict) else None
        if not isinstance(shapes, list):
            problems.add("JSON files", f"{path}: shapes is missing; expected a list of shapes, as LabelMe writes it")
            continue
        found = _images(path, values.get("imagePath"), folder, images)
        if len(found) != 1:
            problems.add("images", _image_problem(path, values.get("imagePath"), folder, found))
            continue
        image = found[0]
        if (owner := owners.setdefault(image, path)) != path:
            problems.add("images", f"{owner} and {path} are both files of the image {image}. Put their shapes into "
                         "one, or remove one.")  # fmt: skip
        sides = _side(values.get("imageWidth")), _side(values.get("imageHeight"))
        label_file = path.relative_to(folder).as_posix()
        image_id = content.add_image(image.relative_to(folder).as_posix(), *sides, label_file)
        for number, shape in enumerate(shapes):
            place = f"shapes[{number}]"
            text = _add_shape(content, (image_id, place), shape, left_out)
            if text:
                problems.add("shapes", text, f"{path}, {place}")
    return content


def _images(path: Path, name: Any, folder: Path, images: VocImages) -> list[Path]:
    """Return the image of a JSON file: as named, beside the file, or in a folder like its own; several if unclear.

    Args:
        path: The JSON file.
        name: The path of the image in it, relative to it; often that of another machine.
        folder: The data set.
        images: All images of the data set.
    """
    text = name.replace("\\", "/") if isinstance(name, str) and "\0" not in name else ""
    named = Path(os.path.abspath(path.parent / text))
    root = Path(os.path.abspath(folder))
    beside = [path.parent / PureWindowsPath(text).name] if text else []
    beside += [
        path.parent / (path.stem + each) for ending in sorted(IMAGE_SUFFIXES) for each in (ending, ending.upper())
    ]
    inside = [folder / named.relative_to(root)] if text and named.is_relative_to(root) else []
    for candidate in (*inside, *beside):
        try:
            if candidate.is_file():
                return [candidate]
        except (OSError, ValueError):
            continue
    return [folder / each for each in images.find(path.relative_to(folder), text, "")]


def _image_problem(path: Path, name: Any, folder: Path, found: Sequence[Path]) -> str:
    if found:
        return f"{path}: its image could be {found[0]} or {found[1]}"
    return (f"{path}: its image {str(name)[:80]!r} is missing in {folder}. Give a folder that has the images and the "
            "JSON files.")  # fmt: skip


def _add_shape(content: CocoContent, at: tuple[int, str], shape: Any, left_out: Counter[str]) -> str | None:
    """Add the box of a shape; return what is wrong with it, if anything."""
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
        return "expected a shape with a label, which is text"
    kind = str(shape.get("shape_type") or "polygon").lower()
    points = _points(shape.get("points"))
    if points is None:
        return "expected points as pairs of numbers"
    xs, ys = [x for x, _ in points], [y for _, y in points]
    name, (image_id, place) = shape["label"], at
    if kind in _BOXES and len(points) >= 2:
        content.add_box(image_id, name, (min(xs), min(ys), max(xs), max(ys)), place=place)
    elif kind in _POLYGONS and len(points) > 2:
        polygon = [value for point in points for value in point]
        content.add_box(image_id, name, (min(xs), min(ys), max(xs), max(ys)), polygons=[polygon], place=place)
    elif kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        corners = xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius
        content.add_box(image_id, name, corners, place=place)
    else:
        left_out[kind[:20]] += 1
    return None


def _points(values: Any) -> list[tuple[float, float]] | None:
    try:
        points = [(float(x), float(y)) for x, y in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return points if all(abs(value) < 1e9 for point in points for value in point) else None


def _side(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9 else None
