"""LabelMe data sets: a JSON file with shapes for each image."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from ezsd.data.formats.coco_json import read_json_file
from ezsd.data.formats.content import CocoContent
from ezsd.data.formats.corners import corner_sources
from ezsd.data.formats.file_heads import head_of
from ezsd.data.formats.image_files import IMAGE_SUFFIXES
from ezsd.data.formats.problems import Problems
from ezsd.data.formats.recognize import DataSet, listed_parts, part_of
from ezsd.data.formats.voc_images import VocImages, unlabelled_notes
from ezsd.errors import DataError
from ezsd.utils.format import counted

_PARTS = ("train", "val", "test")
_BOXES = ("rectangle", "rotation", "mask")  # rotation: the corners of a rotated box of X-AnyLabeling
_POLYGONS = ("polygon", "quadrilateral")
_AROUND = ("circle", "rotation")  # the box around them can exceed the image, where they do not


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
    return DataSet(f"LabelMe, {counted(len(files), 'JSON file')}: {listed_parts(parts)}", parts, notes)


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
        for text, place in _add_shapes(content, image_id, shapes, left_out):
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


def _add_shapes(
    content: CocoContent, image_id: int, shapes: Sequence[Any], left_out: Counter[str]
) -> list[tuple[str, str]]:
    """Add the boxes of the shapes of an image; return what is wrong with them, and with which."""
    problems = []
    objects: dict[Any, list[_Shape]] = {}
    for number, shape in enumerate(shapes):
        try:
            found = _shape_of(shape, f"shapes[{number}]")
        except ValueError as error:
            problems.append((str(error), f"shapes[{number}]"))
            continue
        if found.corners is None:
            left_out[found.kind[:20]] += 1
            continue
        grouped = found.kind in _POLYGONS and found.group is not None
        objects.setdefault((found.name, str(found.group)) if grouped else number, []).append(found)
    for parts in objects.values():
        x1, y1, x2, y2 = zip(*(part.corners for part in parts if part.corners), strict=True)
        first = parts[0]
        content.add_box(
            image_id,
            first.name,
            (min(x1), min(y1), max(x2), max(y2)),
            crowd=first.difficult,
            polygons=[[value for point in part.points for value in point] for part in parts if part.kind in _POLYGONS],
            place=first.place,
            around=first.kind in _AROUND,
        )
    return problems


@dataclass(frozen=True)
class _Shape:
    """A shape, and the corners of its box; None if it has none. Polygons of one name and group are one object."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    corners: tuple[float, float, float, float] | None
    group: Any
    difficult: bool
    place: str


def _shape_of(shape: Any, place: str) -> _Shape:
    """Return a shape.

    Raises:
        ValueError: It has no label or no points.
    """
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
        raise ValueError("expected a shape with a label, which is text")
    kind = str(shape.get("shape_type") or "polygon").lower()
    points = _points(shape.get("points"))
    if points is None:
        raise ValueError("expected points as pairs of numbers")
    difficult = shape.get("difficult") is True
    return _Shape(shape["label"], kind, points, _corners(kind, points), shape.get("group_id"), difficult, place)


def _corners(kind: str, points: Sequence[tuple[float, float]]) -> tuple[float, float, float, float] | None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if (kind in _BOXES and len(points) >= 2) or (kind in _POLYGONS and len(points) > 2):
        return min(xs), min(ys), max(xs), max(ys)
    if kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        return xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius
    return None


def _points(values: Any) -> list[tuple[float, float]] | None:
    try:
        points = [(float(x), float(y)) for x, y in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return points if all(abs(value) < 1e9 for point in points for value in point) else None


def _side(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9 else None
