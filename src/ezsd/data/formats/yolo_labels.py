"""Label files of YOLO: a row of numbers for each object of an image."""

from __future__ import annotations

import math
import os
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ezsd.data.formats.content import CocoContent
from ezsd.data.formats.image_files import is_image_name
from ezsd.data.formats.problems import Problems
from ezsd.data.formats.recognize import Source
from ezsd.data.formats.yolo_images import text_of
from ezsd.data.formats.yolo_rows import LINE, YOLO_FORMATS, RowFormat, recognize_rows
from ezsd.data.images import check_images
from ezsd.errors import DataError


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
    names: Sequence[str],
    notes: list[str],
    box_format: str | None = None,
    keypoints: int = 0,
) -> dict[str, Source]:
    """Read the label files of all parts; images without one are images without objects.

    Args:
        listed: At least one image of each part.
        names: The name of each class number.
        notes: Gets notes on images without a label file, on label files without an image, and on how rows are read.
        box_format: What rows of four numbers are; None for what the format says, which is then checked.
        keypoints: How many numbers of keypoints follow a box; 0 if this is not known.

    Raises:
        DataError: Files cannot be read, or do not have boxes as YOLO has them. All problems are reported.
    """
    problems = Problems()
    parts = {part: _read_images(images, problems) for part, images in listed.items()}
    for part, images in parts.items():
        _check_labelled(images, problems, f"{part}: " if len(parts) > 1 else "", notes)
    given = RowFormat(box_format if box_format in YOLO_FORMATS else None, keypoints)  # others are refused later
    _check_classes(parts, names)
    row_format = _row_format(parts, given, notes)
    sources = {part: _as_source(images, names, row_format, problems) for part, images in parts.items()}
    if problems:
        raise DataError(problems.shown())
    notes += spare_label_notes(image for images in listed.values() for image in images)
    return sources


def _read_images(images: Sequence[Path], problems: Problems) -> list[LabelledImage]:
    owners = dict[Path, Path]()
    found = []
    for image, check in zip(images, check_images([(path, None, None) for path in images], decode=False), strict=True):
        labels = label_file(image)
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


def _check_labelled(images: Sequence[LabelledImage], problems: Problems, part: str, notes: list[str]) -> None:
    """Add a problem if no image of a part has a label file, and a note if some have none."""
    without = [image.path for image in images if image.labels is None]
    if len(without) == len(images):
        problems.add("labels", no_labels_problem(without))
    elif without:
        notes.append(f"{part}{len(without):,} of {len(images):,} images have no label file (the first is "
                     f"{without[0]}); they are used as images without objects. Remove those that are not labelled "
                     "yet.")  # fmt: skip


def _check_classes(parts: Mapping[str, Sequence[LabelledImage]], names: Sequence[str]) -> None:
    """Raise DataError if classes are counted from 1, or two classes with boxes have one name."""
    first: dict[float, str] = {}
    for image in (image for images in parts.values() for image in images):
        for row in image.rows:
            if row.label not in first:
                first[row.label] = _where(image, row)
    if first and min(first) == 1 and max(first) == len(names):
        raise DataError(
            f"{first[len(names)]}: class {len(names)}; there are {len(names)} names, so it must be 0 to "
            f"{len(names) - 1}. No row has class 0, so the classes seem to be counted from 1: subtract 1 from all of "
            "them, or add a name for class 0 before the others."
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
        raise ValueError(f"class {label:g}; there are {len(names)} names, so it must be 0 to {len(names) - 1}")
    return names[int(label)]


def no_labels_problem(images: Sequence[Path]) -> str:
    """Return what is wrong with images without any label file, and what label files are there instead."""
    spare = spare_labels(images)
    cause = (f". {len(spare):,} label files are there, but none has the name of an image (the first is {spare[0]}): a "
             "label file is named like its image, apart from the suffix") if spare else ""  # fmt: skip
    return (f"none of {len(images):,} images has a label file; that of {images[0]} is expected at "
            f"{label_paths(images[0])[0]}{cause}")  # fmt: skip


def spare_labels(images: Sequence[Path]) -> list[Path]:
    """Return the files with boxes in the folders where the label files of images can be."""
    folders = {place.parent for folder in {image.parent for image in images} for place in label_paths(folder / "a.a")}
    texts = [path for folder in sorted(folders) if folder.is_dir() for path in sorted(folder.glob("*.txt"))]
    return [path for path in texts if _has_boxes(path)]


def label_file(image: Path) -> Path | None:
    """Return the label file of an image, or None."""
    return next((path for path in label_paths(image) if path.is_file()), None)


def spare_label_notes(images: Iterable[Path]) -> list[str]:
    """Return a note if label files lie beside those of the images, but have no image."""
    folders: dict[Path, set[Path]] = defaultdict(set)
    for image in images:
        if labels := label_file(image):
            folders[labels.parent].add(image.parent)
    listings = {folder: os.listdir(folder) for inner in folders.values() for folder in inner}
    spare: list[Path] = []
    total = 0
    for folder, image_folders in sorted(folders.items()):
        known = {os.path.splitext(name)[0] for each in image_folders for name in listings[each] if is_image_name(name)}
        texts = [name for name in sorted(os.listdir(folder)) if name.endswith(".txt")]
        total += sum(name[:-4] in known for name in texts)
        spare += [folder / name for name in texts if name[:-4] not in known and _has_boxes(folder / name)]
    if not spare:
        return []
    return [f"{len(spare):,} of {total + len(spare):,} label files have no image (the first is {spare[0]}); their "
            "boxes are not read."]  # fmt: skip


def _has_boxes(path: Path) -> bool:
    """Return whether a text file begins as a label file with boxes does."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            first = file.readline(10_000).split()
        return len(first) > 4 and all(math.isfinite(float(value)) for value in first)
    except (OSError, ValueError):
        return False


def label_paths(image: Path) -> list[Path]:
    """Return where labels can be: in ``labels`` instead of ``images``, beside the image, in a folder beside it."""
    text = image.with_suffix(".txt")
    parts = list(text.parts)
    places = [text, text.parent / "labels" / text.name, text.parent.parent / "labels" / text.name]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        places.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]))
    return places
