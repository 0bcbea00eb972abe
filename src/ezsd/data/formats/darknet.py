"""YOLO data sets without ``data.yaml``: names in a text file, as of darknet, CVAT, LabelImg and Label Studio."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePosixPath

from ezsd.data.formats.file_heads import head_of
from ezsd.data.formats.image_files import image_files, in_any_case
from ezsd.data.formats.label_files import LabelFiles
from ezsd.data.formats.recognize import DataSet, part_of
from ezsd.data.formats.text_files import text_of
from ezsd.data.formats.yolo import described
from ezsd.data.formats.yolo_images import Places, listed_images, without_train_images
from ezsd.data.formats.yolo_labels import read_parts
from ezsd.data.formats.yolo_rows import given_format
from ezsd.errors import DataError

_LISTS = {"train": ("train",), "val": ("valid", "val", "validation"), "test": ("test",)}


def open_darknet(folder: Path, files: list[Path], box_format: str | None = None) -> DataSet | None:
    """Read the label files of a data set whose names are in ``*.names``, ``*.labels`` or ``classes.txt``.

    The parts are those of ``*.data``, or of ``train.txt`` and ``valid.txt`` beside the names, or folders with their
    names.

    Returns:
        The data set; None if there are no names, or no image has a label file.

    Raises:
        DataError: Files cannot be used. All problems are reported.
    """
    settings = next((path for path in files if path.suffix.lower() == ".data" and "names=" in head_of(path)), None)
    beside = [] if settings is None else [path for path in settings.parent.iterdir() if path.suffix.lower() == ".names"]
    named = sorted({path for path in [*files, *beside] if _has_names(path)}, key=lambda path: (len(path.parts), path))
    if not named:
        return None
    values = {} if settings is None else _values(settings)
    wanted = PurePosixPath(values.get("names", "").replace("\\", "/")).name
    named = [path for path in named if path.name == wanted] or named
    path, notes = named[0], list[str]()
    images = _listed(settings or path, values, folder, notes) or _by_folder(folder)
    if values.get("train") and not images:
        raise DataError(f"{settings}: no images are there. Export the images, too (in CVAT: Save images).")
    every = [image for found in images.values() for image in found]
    label_files = LabelFiles(folder)
    if not any(map(label_files.of, every)):
        if label_files.of_no_image(every):
            raise DataError([f"{path}: {label_files.problem(every)}."])
        return None
    images = without_train_images(images, str(settings or path), notes)
    names = _names(path)
    if other := next((other for other in named if _names(other) != names), None):
        raise DataError(f"{path} and {other} have different names. A class is the number of its name, so the names "
                        "must be the same: make one data set of each, or label with one list.")  # fmt: skip
    parts = read_parts(images, label_files, names, notes, given_format(box_format))
    return DataSet(described("YOLO", path, folder, parts, len(names)), parts, tuple(notes))


def _has_names(path: Path) -> bool:
    return path.suffix.lower() in (".names", ".labels") or path.name.lower() == "classes.txt"


def _values(path: Path) -> dict[str, str]:
    """Return the lines ``key = value`` of a file, which can be anything."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _names(path: Path) -> list[str]:
    names = [line.strip() for line in text_of(path).strip().splitlines()]
    if not names or not all(names):
        raise DataError(f"{path}: line {names.index('') + 1 if names else 1} is empty; expected one category name "
                        "a line, because the number of a class is the number of its line.")  # fmt: skip
    return names


def _listed(settings: Path, values: dict[str, str], folder: Path, notes: list[str]) -> dict[str, list[Path]]:
    """Return the images that text files list, by part: files that ``*.data`` names, or that lie beside the names."""
    images: dict[str, list[Path]] = {}
    home = settings.parent.absolute()
    places = Places([home], [folder.absolute()])
    for part, keys in _LISTS.items():
        given = next((values[key] for key in keys if values.get(key)), None)
        lists = [given] if given else [f"{key}.txt" for key in keys if in_any_case(home / f"{key}.txt")]
        if found := listed_images(lists, places, f"{settings}: {part}", notes):
            images[part] = found
        elif given:
            notes.append(f"{settings}: {part} is {given!r}, which is not there or lists no image that is.")
    return images


def _by_folder(folder: Path) -> dict[str, list[Path]]:
    images: dict[str, list[Path]] = defaultdict(list)
    for image in image_files(folder):
        images[part_of(image.parent, folder) or "train"].append(image)
    return {part: images[part] for part in _LISTS if part in images}
