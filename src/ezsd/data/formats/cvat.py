"""Data sets in the format "CVAT for images 1.1": one XML file for all images of a task or project."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ezsd.data.formats.content import CocoContent
from ezsd.data.formats.corners import around_rotated, corner_sources
from ezsd.data.formats.file_heads import head_of
from ezsd.data.formats.problems import Problems
from ezsd.data.formats.recognize import DataSet, listed_parts, part_of
from ezsd.data.formats.xml_files import encoding_problem, number_in, read_xml, side_in
from ezsd.errors import DataError
from ezsd.utils.format import counted

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_PARTS = ("train", "val", "test")


def open_cvat(folder: Path, files: list[Path], box_format: str | None = None) -> DataSet | None:
    """Read the XML files of a data set, or return None if there are none.

    The parts are CVAT's subsets, or folders with their names. Boxes, polygons (also masks), ellipses and masks become
    upright boxes; points, lines, cuboids, skeletons and tags of images are left out. See
    https://docs.cvat.ai/docs/other/xml_format.

    Raises:
        DataError: Files cannot be read. All problems are reported.
    """
    files = [path for path in files if path.suffix.lower() == ".xml" and "<annotations" in head_of(path)]
    if not files:
        return None
    problems, left_out = Problems(), Counter[str]()
    roots = [(path, root) for path in files if (root := read_xml(path, problems)) is not None]
    names = [name for _, root in roots for name in _label_names(root)]
    parts = {part: CocoContent(names) for part in _PARTS}
    owners: dict[tuple[str, str], Path] = {}
    for path, root in roots:
        if root.find("track") is not None:
            problems.add("XML files", f"{path} has the tracks of a video. Export it as CVAT for images 1.1.")
        for number, image in enumerate(root.iterfind("image")):
            if not (image.get("name") or "").strip():
                problems.add("images", f"{path}: image {number} has no name")
                continue
            part = part_of(folder / image.get("subset", ""), folder) or part_of(path.parent, folder) or "train"
            name = _file_name(image.get("name", ""), image.get("subset", ""), path.parent, folder)
            if (part, name) in owners:
                problems.add("images twice", f"{owners[part, name]} and {path} both have boxes of the image {name}. "
                             "Put them into one, or remove one.")  # fmt: skip
            owners.setdefault((part, name), path)
            label_file = path.relative_to(folder).as_posix()
            for text in _add_image(parts[part], image, (name, label_file), left_out):
                problems.add("shapes", f"{path}: {image.get('name')}: {text}")
    if problems:
        raise DataError(problems.shown())
    used = {part for part, _ in owners}
    if not used:
        raise DataError(f"{folder}: {counted(len(files), 'XML file')} of CVAT, but no images in them.")
    found = [part for part in _PARTS if part in used]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in left_out.items())
    notes = (f"Shapes without a box are left out: {kinds}.",) if kinds else ()
    sources = corner_sources({part: parts[part] for part in found}, folder, box_format)
    listed = ", ".join(path.relative_to(folder).as_posix() for path in files[:3])
    return DataSet(f"CVAT for images, from {listed}: {listed_parts(found)}", sources, notes)


def _label_names(root: Element) -> list[str]:
    """Return the labels of a task or project; those with a parent are the points of a skeleton."""
    labels = (label for label in root.iterfind("meta/*/labels/label") if not label.findtext("parent"))
    return [name for label in labels if (name := (label.findtext("name") or "").strip())]


def _add_image(content: CocoContent, image: Element, files: tuple[str, str], left_out: Counter[str]) -> list[str]:
    """Add an image and its boxes; return what is wrong with its shapes.

    Args:
        content: Gets the image.
        image: The XML element.
        files: The image, and the XML file.
        left_out: Gets the kinds of shapes without a box.
    """
    image_id = content.add_image(files[0], side_in(image.get("width")), side_in(image.get("height")), files[1])
    problems = []
    for place, shape in enumerate(image, start=1):
        read = _CORNERS.get(shape.tag)
        if read is None:
            left_out[shape.tag[:20]] += 1
            continue
        corners, name = read(shape), (shape.get("label") or "").strip()
        if not name or not all(map(math.isfinite, corners)):
            problems.append(f"shape {place} ({shape.tag}): expected a label, and coordinates in pixels")
            continue
        if cause := encoding_problem(name):
            problems.append(f"shape {place} ({shape.tag}): {cause}")
            continue
        polygons = [_points(shape)] if shape.tag == "polygon" else []
        at = f"image {image.get('name')}, shape {place}"
        around = shape.tag == "ellipse" or number_in(shape.get("rotation", "0")) != 0
        content.add_box(image_id, name, corners, polygons=polygons, place=at, around=around)
    return problems


def _file_name(name: str, subset: str, home: Path, folder: Path) -> str:
    """Return the path of an image in the data set; its name if it is elsewhere, as in exports without images."""
    name = name.replace("\\", "/").strip()
    for path in (home / "images" / name, home / "images" / subset / name, home / name):
        try:
            if ".." not in path.parts and path.is_file():
                return path.relative_to(folder).as_posix()
        except (OSError, ValueError):
            continue
    return name


def _numbers(shape: Element, *keys: str) -> list[float]:
    return [number_in(shape.get(key)) for key in keys]


def _points(shape: Element) -> list[float]:
    return [number_in(value) for point in shape.get("points", "").split(";") for value in point.split(",")]


def _box(shape: Element) -> Sequence[float]:
    x1, y1, x2, y2 = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    if not (angle := number_in(shape.get("rotation", "0"))):
        return x1, y1, x2, y2
    return around_rotated((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, math.radians(angle))


def _ellipse(shape: Element) -> Sequence[float]:
    x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
    angle = math.radians(number_in(shape.get("rotation", "0")))
    cosine, sine = math.cos(angle), math.sin(angle)
    return _around(x, y, math.hypot(rx * cosine, ry * sine), math.hypot(rx * sine, ry * cosine))


def _around(x: float, y: float, half_width: float, half_height: float) -> Sequence[float]:
    return x - half_width, y - half_height, x + half_width, y + half_height


def _polygon(shape: Element) -> Sequence[float]:
    values = _points(shape)
    if len(values) < 6 or len(values) % 2:
        return [math.nan]
    xs, ys = values[::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _mask(shape: Element) -> Sequence[float]:
    left, top, width, height = _numbers(shape, "left", "top", "width", "height")
    return left, top, left + width, top + height


_CORNERS = {"box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask}
