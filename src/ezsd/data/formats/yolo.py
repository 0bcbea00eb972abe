"""YOLO data sets: ``data.yaml``, and a text file of boxes or polygons for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ezsd.data.formats.file_heads import head_of
from ezsd.data.formats.label_files import LabelFiles, label_paths
from ezsd.data.formats.recognize import DataSet, Source, listed_parts
from ezsd.data.formats.text_files import decoded, text_of
from ezsd.data.formats.yolo_images import Places, listed_images, without_train_images
from ezsd.data.formats.yolo_labels import read_parts
from ezsd.data.formats.yolo_rows import given_format
from ezsd.data.samples import ImageSet
from ezsd.errors import DataError
from ezsd.utils.files import write_text
from ezsd.utils.format import counted, plural
from ezsd.utils.yaml_files import load_yaml

_PART_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def open_yolo(folder: Path, files: list[Path], box_format: str | None = None) -> DataSet | None:
    """Read the data set of a YAML file with the key ``names``, or return None if there is none.

    Raises:
        DataError: The YAML file, its image folders or the label files cannot be used. All problems are reported.
    """
    found = [(path, values) for path in files if (values := _values(path)) is not None]
    if not found:
        return None
    path, values = min(found, key=lambda pair: (pair[0].name.lower() != "data.yaml", len(pair[0].parts), pair[0]))
    names = _names(path, values)
    notes, listed = _other_notes(path, names, [other for other, _ in found], files), dict[str, list[Path]]()
    for part, keys in _PART_KEYS.items():
        given = next((values[key] for key in keys if values.get(key)), None)
        if given is None:
            continue
        images = listed_images(given, _places(path, values, folder), f"{path}: {part}", notes)
        if images:
            listed[part] = images
        elif part == "train":
            raise DataError(f"{path}: train is {given!r}, but no images are there. Expected a folder of images, or a "
                            "text file that lists them, relative to this file or to its path.")  # fmt: skip
        else:
            notes.append(f"{path.name} names the {part} part {given!r}, but no images are there; it is left out.")
    if not listed:
        raise DataError(f"{path}: the key train is missing; expected the folder of the train images.")
    listed = without_train_images(listed, str(path), notes)
    parts = read_parts(listed, LabelFiles(folder), names, notes, given_format(box_format, _keypoints(values)))
    return DataSet(described("YOLO", path, folder, parts, len(names)), parts, tuple(notes))


def described(kind: str, path: Path, folder: Path, parts: Mapping[str, Source], names: int) -> str:
    """Return what a data set is, for people."""
    where = path.relative_to(folder) if path.is_relative_to(folder) else path
    return f"{kind}, from {where}: {listed_parts(parts)}, {counted(names, 'name')}"


def write_yolo(parts: Mapping[str, ImageSet], files: Mapping[str, Sequence[str]], out: Path) -> list[str]:
    """Write label files and ``data.yaml`` of images that lie in ``out/PART/images``.

    Args:
        parts: The images by part; all have the same names.
        files: The file names of the images of each part, relative to ``out/PART/images``. They differ without suffix.
        out: The folder of the data set.

    Returns:
        Notes on what the format cannot hold: crowd boxes and masks.
    """
    crowds = 0
    for part, images in parts.items():
        for image, name in zip(images, files[part], strict=True):
            sides = [image.width, image.height]
            lines = []
            columns = (image.boxes.tolist(), image.labels.tolist(), image.crowd.tolist())
            for box, label, crowd in zip(*columns, strict=True):
                crowds += crowd
                center = [(box[axis] + box[axis + 2]) / 2 / sides[axis] for axis in (0, 1)]
                size = [(box[axis + 2] - box[axis]) / sides[axis] for axis in (0, 1)]
                if not crowd:
                    lines.append(" ".join([str(label - 1), *(f"{value:.8g}" for value in (*center, *size))]) + "\n")
            write_text(label_paths(out / part / "images" / name)[0], "".join(lines))
    names = next(iter(parts.values())).names
    content = {**{part: f"{part}/images" for part in parts}, "nc": len(names), "names": dict(enumerate(names))}
    write_text(out / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    notes = [f"{counted(crowds, 'crowd box is', 'crowd boxes are')} left out: YOLO has none."] if crowds else []
    return (
        [*notes, "Masks are left out: boxes are written."] if any(part.has_masks for part in parts.values()) else notes
    )


def _other_notes(path: Path, names: Sequence[str], found: Sequence[Path], files: Sequence[Path]) -> list[str]:
    """Return notes on files with names that are not used: of another data set, or in another order."""
    notes = []
    if others := [other for other in found if other != path]:
        notes.append(f"{path} is read; {counted(len(others), 'other YAML file')} with names "
                     f"{plural(len(others), 'is', 'are')} not: {', '.join(map(str, others[:3]))}. For another data "
                     "set, give its own folder.")  # fmt: skip
    lists = [file for file in files if file.name.lower() == "classes.txt"]
    if other := next((file for file in lists if _lines(file) != [name.strip() for name in names]), None):
        notes.append(f"{other} has other names than {path}, which are used. A class is the number of its name: check "
                     "that the names are those with which the images were labelled.")  # fmt: skip
    return notes


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in text_of(path).splitlines() if line.strip()]


def _values(path: Path) -> dict[str, Any] | None:
    if path.suffix.lower() not in (".yaml", ".yml"):
        return None
    try:
        values = load_yaml(decoded(path))
    except (OSError, ValueError, yaml.YAMLError) as error:
        if path.name.lower() == "data.yaml" or "names:" in head_of(path):
            raise DataError(f"{path} cannot be read as YAML: {error}.") from None
        return None
    if not isinstance(values, dict):
        return None
    values = {str(key).lower(): value for key, value in values.items()}  # "Train:" is the key train
    return values if "names" in values else None


def _names(path: Path, values: Mapping[str, Any]) -> list[str]:
    names = values["names"]
    if isinstance(names, dict) and all(isinstance(key, int) for key in names):
        names = [names.get(index) for index in range(max(names, default=-1) + 1)] if len(names) < 10**6 else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(
            f"{path}: names is {str(values['names'])[:80]}; expected a list of category names (text; put numbers, yes "
            "and no in quotes), or names by number from 0."
        )
    count = values.get("nc")
    if isinstance(count, int) and count != len(names):
        raise DataError(f"{path}: nc is {count}, but there {plural(len(names), 'is', 'are')} "
                        f"{counted(len(names), 'name')}. A class is the number of its name, so a name that is missing "
                        "moves those behind it: make both the same.")  # fmt: skip
    return names


def _keypoints(values: Mapping[str, Any]) -> int:
    """Return how many numbers of keypoints follow a box."""
    shape = values.get("kpt_shape")
    valid = isinstance(shape, list) and len(shape) == 2 and all(isinstance(side, int) and side > 0 for side in shape)
    return shape[0] * shape[1] if isinstance(shape, list) and valid else 0


def _places(path: Path, values: Mapping[str, Any], folder: Path) -> Places:
    """Return where paths are searched for: relative to ``path`` in the file, which can be absolute, and to the file."""
    home, base = path.parent.absolute(), values.get("path")
    if not isinstance(base, str):
        return Places([home], [folder.absolute()])
    return Places([home / base, home], [folder.absolute(), *([Path(base)] if Path(base).is_absolute() else [])])
