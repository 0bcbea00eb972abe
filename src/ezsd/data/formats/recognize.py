"""Recognize the format of a data set, and find its parts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ezsd.data.formats.box_formats import BOX_FORMATS
from ezsd.data.formats.coco_json import is_of_init
from ezsd.data.formats.file_heads import OTHER_SUFFIXES, head_of, is_label_studio, other_format
from ezsd.data.formats.image_files import image_files, inner_folders
from ezsd.errors import DataError, RecipeError
from ezsd.utils.format import counted, plural

_DEEPEST = 4  # levels of folders in which annotations are searched for
_PART_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
_NOT_BOXES = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_")  # other files of COCO
_FORMATS = "COCO JSON, YOLO (data.yaml, obj.names or classes.txt), Pascal VOC (XML), CVAT (XML), LVIS and LabelMe"
_BEGINNINGS = {  # of the description, by kind of annotation file
    "CVAT": ("CVAT",), "Pascal VOC": ("Pascal VOC",), "LabelMe": ("LabelMe",), "COCO": ("COCO", "LVIS"),
}  # fmt: skip
_SUFFIXES = (".json", ".xml", ".yaml", ".yml", ".names", ".data", ".labels", *OTHER_SUFFIXES)


@dataclass(frozen=True)
class Source:
    """One part of a data set.

    Attributes:
        images: The folder that file names are relative to.
        annotations: A COCO or LVIS file that can be used as it is.
        content: The content of such a file if the annotations are in another format.
        origin: The data set that the content is from, for messages.
    """

    images: Path
    annotations: Path | None = None
    content: Mapping[str, Any] | None = None
    origin: Path | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set as it was found.

    Attributes:
        description: The format and what it was recognized by, for people.
        parts: "train", and where they exist "val" and "test".
        notes: What was left out or read in an unusual way.
        only: The part that is used as "train" because there is no other one, "val" or "test"; else an empty text.
    """

    description: str
    parts: Mapping[str, Source]
    notes: tuple[str, ...] = field(default=())
    only: str = ""

    @property
    def part_notes(self) -> tuple[str, ...]:
        """Return a note if another part is used as "train"."""
        if not self.only:
            return ()
        return (f"the data set has only a {self.only} part; it is used as the train part.",)


_Reader = Callable[[Path, list[Path]], DataSet | None]


def open_dataset(path: Path, box_format: str | None = None) -> DataSet:
    """Recognize a data set and read it.

    Args:
        path: A folder, in which files that ``ezsd init`` wrote are left out, or a file: COCO, LVIS or LabelMe JSON,
            ``data.yaml`` of YOLO or names of darknet, or an XML file of Pascal VOC or CVAT.
        box_format: What the boxes are, one of ``BOX_FORMATS``, if they are not what the format says. Boxes of COCO
            files are only checked, because the pipeline reads these files by itself.

    Raises:
        DataError: The path does not exist, the format is not known, or files cannot be read.
        RecipeError: ``box_format`` is not known, or the boxes of the data set cannot be in it.
    """
    if box_format not in (None, *BOX_FORMATS):
        raise RecipeError(f"--box-format {box_format}: expected one of {', '.join(BOX_FORMATS)}.")
    try:
        return _opened(path, box_format)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror or error}. Check the permissions of "
                        "files and folders of the data set.") from None  # fmt: skip


def _opened(path: Path, box_format: str | None) -> DataSet:
    from ezsd.data.formats import coco_layout, cvat, darknet, labelme, voc, yolo
    from ezsd.data.formats.corners import CORNER_FORMATS
    from ezsd.data.formats.label_files import LabelFiles
    from ezsd.data.formats.yolo_rows import YOLO_FORMATS

    readers: list[tuple[_Reader, tuple[str, ...]]] = [
        (lambda folder, files: yolo.open_yolo(folder, files, box_format), YOLO_FORMATS),
        (lambda folder, files: darknet.open_darknet(folder, files, box_format), YOLO_FORMATS),
        (lambda folder, files: coco_layout.open_coco(folder, files, not path.is_dir()), BOX_FORMATS),
        (lambda folder, files: voc.open_voc(folder, files, box_format), BOX_FORMATS),
        (lambda folder, files: cvat.open_cvat(folder, files, box_format), CORNER_FORMATS),
        (lambda folder, files: labelme.open_labelme(folder, files, box_format), CORNER_FORMATS),
    ]
    if not path.exists():
        raise DataError(f"{path} does not exist. Give the folder of a data set, or its annotation file.")
    folder, all_files = (path, sorted(_annotation_files(path, 0))) if path.is_dir() else (path.parent, [path])
    own = {file for file in all_files if path.is_dir() and file.suffix.lower() == ".json" and is_of_init(file)}
    files = [file for file in all_files if file not in own]
    for read, formats in readers:
        found = read(folder, files)
        if found is None:
            continue
        if box_format is not None and box_format not in formats:
            raise RecipeError(f"--box-format {box_format} cannot be used with {found.description}; expected "
                              f"{' or '.join(formats)}, or none.")  # fmt: skip
        found = _with_train(found, path)
        parts = {part: replace(source, origin=path) for part, source in found.parts.items()}
        return replace(found, parts=parts, notes=(*found.notes, *(_other_notes(found, files) if path.is_dir() else ())))
    if other := other_format(files):
        raise DataError(f"{other[0]} is {other[1]}, which is not read. {other[2]}")
    if own:
        raise DataError(f"{path} has no annotations but those that ezsd init wrote, such as {min(own)}. Give the data "
                        "set that they were made from, or such a file itself.")  # fmt: skip
    images = image_files(path) if path.is_dir() else []
    label_files = LabelFiles(path)
    if spare := label_files.of_no_image(images):
        raise DataError(
            f"{path} has label files of YOLO, such as {spare[0]}, but no names of their classes. Add data.yaml with "
            "train and names, or classes.txt with a name a line."
        )
    if images and label_files.cause(images):
        raise DataError([f"{path}: {label_files.problem(images)}."])
    if images:
        unknown = next((file for file in files if file.suffix.lower() in (".json", ".xml")), None)
        unknown = unknown or next(label_files.texts_of(images), None)
        other_file = "" if unknown is None else f" {unknown} is in none of them."
        raise DataError(
            f"{path} has {counted(len(images), 'image')}, but no annotations. A training needs boxes of some "
            f"categories, in one of the formats {_FORMATS}.{other_file} ezsd detect finds objects in images without "
            "boxes."
        )
    raise DataError(f"{path}: the format is not known. Expected {_FORMATS}.")


def _with_train(found: DataSet, path: Path) -> DataSet:
    """Return a data set that has a train part; a part that is alone becomes it.

    Raises:
        DataError: There are val and test parts, but no train part.
    """
    if "train" in found.parts:
        return found
    if len(found.parts) != 1:
        raise DataError(f"{path}: val and test parts, but none to train on. Give the folder or file of one "
                        "of them as the data set, and the other one with --val-annotations.")  # fmt: skip
    ((part, source),) = found.parts.items()
    return replace(found, parts={"train": source}, only=part if path.is_dir() else "")


def _other_notes(found: DataSet, files: list[Path]) -> list[str]:
    """Return notes on empty annotation files, and on those in other formats: only one format is read."""
    empty = [path for path in files if path.suffix.lower() in (".json", ".xml") and not head_of(path)]
    notes = []
    if empty:
        notes.append(f"{counted(len(empty), 'annotation file is', 'annotation files are')} empty and not read (the "
                     f"first is {empty[0]}). Export them again: their boxes are missing.")  # fmt: skip
    others: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        kind = _kind_of(path)
        if kind is not None and not found.description.startswith(_BEGINNINGS[kind]):
            others[kind].append(path)
    return notes + [
        f"{counted(len(paths), 'annotation file')} in another format, {kind}, {plural(len(paths), 'is', 'are')} not "
        f"read (the first is {paths[0]}). To use them instead, give one of them, or a folder without the other format."
        for kind, paths in others.items()
    ]


def _kind_of(path: Path) -> str | None:
    suffix = path.suffix.lower()
    head = head_of(path) if suffix in (".xml", ".json") else ""
    if suffix == ".xml":
        return "CVAT" if "<annotations" in head else "Pascal VOC" if "<annotation" in head else None
    if '"shapes":[' in head:
        return "LabelMe"
    return "COCO" if '"images":[' in head and not is_label_studio(path) else None


def listed_parts(parts: Collection[str]) -> str:
    """Return the names of parts for people: "2 parts (train, val)"."""
    return f"{counted(len(parts), 'part')} ({', '.join(parts)})"


def part_of(path: Path, root: Path) -> str | None:
    """Return the part that the words in a path name: "train", "val" or "test"; None without such a word."""
    words = re.split(r"[^a-z]+", str(path.relative_to(root) if path.is_relative_to(root) else path.name).lower())
    return next((_PART_WORDS[word] for word in reversed(words) if word in _PART_WORDS), None)


def _annotation_files(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the files of a data set that can say what it is; folders of nothing but images cost one listing."""
    for entry in folder.iterdir():
        named = entry.suffix.lower() in _SUFFIXES or entry.name.lower() == "classes.txt"
        if named and not entry.name.startswith((".", *_NOT_BOXES)) and entry.is_file():
            yield entry
    for inner in inner_folders(folder) if depth < _DEEPEST else ():
        if not inner.name.startswith(_NOT_BOXES):
            yield from _annotation_files(inner, depth + 1)
