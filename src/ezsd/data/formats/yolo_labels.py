"""Label files of YOLO: a row of numbers for each object of an image."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ezsd.data.formats.content import CocoContent
from ezsd.data.formats.label_files import LabelFiles
from ezsd.data.formats.problems import Problems
from ezsd.data.formats.recognize import Source
from ezsd.data.formats.text_files import text_of
from ezsd.data.formats.yolo_rows import LINE, RowFormat, recognize_rows
from ezsd.data.images import check_images
from ezsd.errors import DataError
from ezsd.utils.format import counted, plural


@dataclass(frozen=True)
class Row:
    """A line of a label file.

    Attributes:
        line: Its number, from 1.
        label: The class as in the file.
        numbers: What follows.
    """

    line: int
    label: float
    numbers: array[float]


@dataclass(frozen=True)
class LabelledImage:
    """An image with the rows of its label file.

    Attributes:
        path: The image.
        size: Width and height, pixels; None if it cannot be read.
        labels: The label file; None if there is none.
        rows: The lines that are numbers.
    """

    path: Path
    size: tuple[int, int] | None
    labels: Path | None
    rows: Sequence[Row]


def read_parts(
    listed: Mapping[str, Sequence[Path]],
    label_files: LabelFiles,
    names: Sequence[str],
    notes: list[str],
    given: RowFormat,
) -> dict[str, Source]:
    """Read the label files of all parts; images without one are images without objects.

    Args:
        listed: At least one image of each part.
        label_files: Where their label files are.
        names: The name of each class number.
        notes: Gets notes on images without a label file, on label files without an image, and on how rows are read.
        given: How rows are read; what it does not say is recognized from all rows.

    Raises:
        DataError: Files cannot be read, or do not have boxes as YOLO has them. All problems are reported.
    """
    problems = Problems()
    parts = {part: _read_images(images, label_files, problems) for part, images in listed.items()}
    for part, images in parts.items():
        if not any(image.labels for image in images):
            problems.add("labels", label_files.problem(listed[part]))
        else:
            notes += _unlabelled_notes(images, f"{part}: " if len(parts) > 1 else "")
    _check_classes(parts, names)
    row_format = _row_format(parts, given, notes)
    sources = {part: _as_source(images, names, row_format, problems) for part, images in parts.items()}
    if problems:
        raise DataError(problems.shown())
    notes += label_files.notes(image for images in listed.values() for image in images)
    return sources


def _read_images(images: Sequence[Path], label_files: LabelFiles, problems: Problems) -> list[LabelledImage]:
    owners = dict[Path, Path]()
    found = []
    for image, check in zip(images, check_images([(path, None, None) for path in images], decode=False), strict=True):
        labels = label_files.of(image)
        if labels is not None and (owner := owners.setdefault(labels, image)) != image:
            problems.add("label files", f"{labels} is the label file of {owner} and of {image.name}. Rename or remove "
                         "one of the two images, or its boxes would count twice.")  # fmt: skip
        size = None if check.problem else (check.width, check.height)
        rows = [] if labels is None or size is None else list(_read_rows(labels, problems))
        found.append(LabelledImage(image, size, labels, rows))
    return found


def _read_rows(labels: Path, problems: Problems) -> Iterator[Row]:
    for number, line in enumerate(text_of(labels).splitlines(), start=1):
        try:
            values = array("d", map(float, line.split()))
        except ValueError:
            problems.add("lines", f"{line[:80]!r} has text; {LINE}", f"{labels}, line {number}")
            continue
        if values:
            yield Row(number, values[0], values[1:])


def _unlabelled_notes(images: Sequence[LabelledImage], part: str) -> list[str]:
    without = [image.path for image in images if image.labels is None]
    if not without:
        return []
    return [f"{part}{len(without):,} of {len(images):,} images {plural(len(without), 'has', 'have')} no label file "
            f"(the first is {without[0]}); they are used as images without objects. Remove those that are not labelled "
            "yet."]  # fmt: skip


def _check_classes(parts: Mapping[str, Sequence[LabelledImage]], names: Sequence[str]) -> None:
    """Raise DataError if classes are counted from 1, or two classes with boxes have one name."""
    first: dict[float, str] = {}
    for image in (image for images in parts.values() for image in images):
        for row in image.rows:
            if row.label not in first:
                first[row.label] = _where(image, row)
    if first and min(first) == 1 and max(first) == len(names):
        raise DataError(
            f"{first[len(names)]}: class {len(names)}; there {plural(len(names), 'is', 'are')} "
            f"{counted(len(names), 'name')}, so it must be 0 to {len(names) - 1}. No row has class 0, so the classes "
            "seem to be counted from 1: subtract 1 from all of them, or add a name for class 0 before the others."
        )
    owners: dict[str, int] = {}
    for label, name in enumerate(names):
        if label in first and (owner := owners.setdefault(name, label)) != label:
            raise DataError(f'{first[label]}: classes {owner} and {label} have one name, "{name}". Give each class a '
                            "name of its own, or one number to the boxes of both.")  # fmt: skip


def _row_format(parts: Mapping[str, Sequence[LabelledImage]], given: RowFormat, notes: list[str]) -> RowFormat:
    """Return how all rows are read; those of all parts are in one format."""
    placed = [(image, row) for images in parts.values() for image in images for row in image.rows]
    sizes = np.array([image.size or (1, 1) for image, _ in placed], dtype=np.float64).reshape(-1, 2)
    rows = [row.numbers for _, row in placed]
    return recognize_rows(rows, sizes, given, lambda place: _where(*placed[place]), notes)


def _where(image: LabelledImage, row: Row) -> str:
    return f"{image.labels}, line {row.line}"


def _as_source(
    images: Sequence[LabelledImage], names: Sequence[str], row_format: RowFormat, problems: Problems
) -> Source:
    root = Path(os.path.commonpath([image.path.parent for image in images]))
    content = CocoContent(names)
    for image in images:
        width, height = image.size or (None, None)
        label_path = "" if image.labels is None else os.path.relpath(image.labels, root)
        image_id = content.add_image(image.path.relative_to(root).as_posix(), width, height, label_path)
        for row in image.rows:
            try:
                name = _name_of(row.label, names)
                shape = row_format.shape_of(row.numbers, image.size or (1, 1))
            except ValueError as error:
                problems.add("lines", str(error), _where(image, row))
                continue
            content.add_box(image_id, name, shape.corners, polygons=shape.polygons, place=f"line {row.line}")
    return Source(root, content=content.as_dict())


def _name_of(label: float, names: Sequence[str]) -> str:
    if not label.is_integer() or not 0 <= label < len(names):
        raise ValueError(
            f"class {label:g}; there {plural(len(names), 'is', 'are')} {counted(len(names), 'name')}, so it must be 0 "
            f"to {len(names) - 1}"
        )
    return names[int(label)]
