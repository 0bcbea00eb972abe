"""YOLO data sets: ``data.yaml``, and a text file of boxes or polygons for each image."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ezsd.data.formats.content import CocoContent
from ezsd.data.formats.image_files import image_files, is_image_name
from ezsd.data.formats.problems import Problems
from ezsd.data.formats.recognize import DataSet, Source
from ezsd.data.images import check_images
from ezsd.data.samples import ImageSet
from ezsd.errors import DataError
from ezsd.utils.files import write_text
from ezsd.utils.yaml_files import load_yaml

_PART_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_ROUNDED = 1.02  # exports exceed 1 by rounding
_LINE = "expected a class and x, y, width, height of the box's center and size, or a polygon, as fractions of the image"


def open_yolo(folder: Path, files: list[Path]) -> DataSet | None:
    """Read the data set of a YAML file with the key ``names``, or return None if there is none.

    Raises:
        DataError: The YAML file, its image folders or the label files cannot be used. All problems are reported.
    """
    found = [(path, values) for path in files if (values := _values(path)) is not None]
    if not found:
        return None
    path, values = min(found, key=lambda pair: (pair[0].name != "data.yaml", len(pair[0].parts), pair[0]))
    names = _names(path, values)
    problems, notes, listed = Problems(), list[str](), dict[str, list[Path]]()
    for part, keys in _PART_KEYS.items():
        given = next((values[key] for key in keys if values.get(key)), None)
        if given is None:
            continue
        images = listed_images(given, _bases(path, values), notes)
        if images:
            listed[part] = images
        elif part == "train":
            raise DataError(f"{path}: train is {given!r}, but no images are there. Expected a folder of images, or a "
                            "text file that lists them, relative to this file or to its path.")  # fmt: skip
        else:
            notes.append(f"{path.name} names the {part} part {given!r}, but no images are there; it is left out.")
    if "train" not in listed:
        raise DataError(f"{path}: the key train is missing; expected the folder of the train images.")
    listed = without_train_images(listed, str(path), notes)
    parts = {part: read_labels(images, names, problems, notes, _keypoints(values)) for part, images in listed.items()}
    if problems:
        raise DataError(problems.shown())
    notes += spare_label_notes(image for images in listed.values() for image in images)
    return DataSet(described("YOLO", path, folder, parts, len(names)), parts, tuple(notes))


def described(kind: str, path: Path, folder: Path, parts: Mapping[str, Source], names: int) -> str:
    """Return what a data set is, for people."""
    where = path.relative_to(folder) if path.is_relative_to(folder) else path
    return f"{kind}, from {where}: {_counted(len(parts), 'part')} ({', '.join(parts)}), {_counted(names, 'name')}"


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
            write_text(_label_paths(out / part / "images" / name)[0], "".join(lines))
    names = next(iter(parts.values())).names
    content = {**{part: f"{part}/images" for part in parts}, "nc": len(names), "names": dict(enumerate(names))}
    write_text(out / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    notes = [f"{crowds:,} crowd boxes are left out: YOLO has none."] if crowds else []
    return (
        [*notes, "Masks are left out: boxes are written."] if any(part.has_masks for part in parts.values()) else notes
    )


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _values(path: Path) -> dict[str, Any] | None:
    if path.suffix.lower() not in (".yaml", ".yml"):
        return None
    try:
        values = load_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        if path.name == "data.yaml":
            raise DataError(f"{path} cannot be read as YAML: {error}.") from None
        return None
    return values if isinstance(values, dict) and "names" in values else None


def _names(path: Path, values: Mapping[str, Any]) -> list[str]:
    names = values["names"]
    if isinstance(names, dict) and all(isinstance(key, int) for key in names):
        names = [names.get(index) for index in range(max(names, default=-1) + 1)] if len(names) < 10**6 else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(
            f"{path}: names is {str(values['names'])[:80]}; expected a list of category names (text; put numbers, yes "
            "and no in quotes), or names by number from 0."
        )
    return names


def _keypoints(values: Mapping[str, Any]) -> int:
    """Return how many numbers of keypoints follow a box."""
    shape = values.get("kpt_shape")
    valid = isinstance(shape, list) and len(shape) == 2 and all(isinstance(side, int) and side > 0 for side in shape)
    return shape[0] * shape[1] if isinstance(shape, list) and valid else 0


def _bases(path: Path, values: Mapping[str, Any]) -> list[Path]:
    home = path.parent.absolute()
    return [home / values["path"], home] if isinstance(values.get("path"), str) else [home]


def without_train_images(images: Mapping[str, list[Path]], where: str, notes: list[str]) -> dict[str, list[Path]]:
    """Return the parts without those that have only train images, because figures of them would be too good.

    Args:
        images: The images of each part.
        where: What names them.
        notes: Gets a note on each part that is left out.

    Raises:
        DataError: A part has some images of the train part.
    """
    kept = {"train": images["train"]}
    train = {os.path.realpath(image) for image in images["train"]}
    for part, listed in images.items():
        shared = [image for image in listed if part != "train" and os.path.realpath(image) in train]
        if shared and len(shared) < len(listed):
            raise DataError(f"{where}: {len(shared):,} of {len(listed):,} {part} images are also train images (the "
                            f"first is {shared[0]}), so the figures would be too good. Remove them from one of the two "
                            "parts.")  # fmt: skip
        if shared:
            notes.append(f"{where}: the {part} part has only images of the train part, on which the figures would be "
                         "too good; it is left out.")  # fmt: skip
        else:
            kept[part] = listed
    return kept


def listed_images(given: Any, bases: Sequence[Path], notes: list[str]) -> list[Path]:
    """Return the images of one part: those of folders, and those listed in text files.

    Args:
        given: A path, or a list of paths.
        bases: The folders that paths can be relative to.
        notes: Gets notes on images that are listed, but missing, and on lines that are one image.
    """
    images: list[Path] = []
    for entry in given if isinstance(given, list) else [given]:
        found = _existing(str(entry), bases)
        if found is None:
            continue
        if found.is_dir():
            images += image_files(found)
        elif found.suffix == ".txt":
            lines = text_of(found).splitlines()
            listed = {line.strip(): _existing(line.strip(), [found.parent, *bases]) for line in lines if line.strip()}
            images += [image for image in listed.values() if image is not None and is_image_name(image.name)]
            notes += _merged_notes(found, listed)
            missing = [line for line, image in listed.items() if image is None]
            if missing:
                notes.append(f"{len(missing):,} of {len(listed):,} images that {found} lists are missing (the first is "
                             f"{missing[0][:200]}); they are left out.")  # fmt: skip
    return list(dict.fromkeys(images))


def _merged_notes(where: Path, listed: Mapping[str, Path | None]) -> list[str]:
    """Return a note if lines of a list that name different files were found as one: they are one image."""
    lines_of: dict[Path, dict[str, str]] = defaultdict(dict)
    for line, image in listed.items():
        if image is not None:
            lines_of[image].setdefault(os.path.normpath(line.replace("\\", "/")), line)
    merged = [(image, list(lines.values())) for image, lines in lines_of.items() if len(lines) > 1]
    if not merged:
        return []
    image, (first, second, *_) = merged[0]
    again = sum(len(lines) - 1 for _, lines in merged)
    return [f"{again:,} lines of {where} are found as an image that another line names, too ({first[:200]} and "
            f"{second[:200]} are both {image}); it is used once. If they are different images, write paths that exist."
            ]  # fmt: skip


def _existing(text: str, bases: Sequence[Path]) -> Path | None:
    """Return the path that exists: an absolute one, or one inside the data set.

    Roboflow writes ``../train/images`` for a folder beside ``data.yaml``, and absolute paths are often those of another
    machine: leading parts are left out until the path exists.
    """
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    inner = [part for part in parts if part != ".."]
    candidates = [Path(text)] if Path(text).is_absolute() else []
    candidates += bases if text.strip("./") == "" and ".." not in parts else []
    candidates += [base.joinpath(*inner[start:]) for start in range(len(inner)) for base in bases]
    for candidate in candidates:
        try:
            if candidate.exists():
                return candidate
        except (OSError, ValueError):
            continue
    return None


def text_of(path: Path) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}.") from None


def read_labels(
    images: list[Path], names: Sequence[str], problems: Problems, notes: list[str], keypoints: int = 0
) -> Source:
    """Read the label files of images; images without one are images without objects.

    Args:
        images: At least one.
        names: The name of each class number.
        problems: Gets lines that are invalid.
        notes: Gets a note on images without a label file.
        keypoints: How many numbers of keypoints follow a box.
    """
    root = Path(os.path.commonpath([image.parent for image in images]))
    content = CocoContent(names)
    checks = check_images([(image, None, None) for image in images], decode=False)
    labelled, owners = 0, dict[Path, Path]()
    for image, check in zip(images, checks, strict=True):
        width, height = (None, None) if check.problem else (check.width, check.height)
        labels = label_file(image)
        label_path = "" if labels is None else os.path.relpath(labels, root)
        image_id = content.add_image(image.relative_to(root).as_posix(), width, height, label_path)
        labelled += labels is not None
        if labels is not None and (owner := owners.setdefault(labels, image)) != image:
            problems.add("label files", f"{labels} is the label file of {owner} and of {image.name}. Rename or remove "
                         "one of the two images, or its boxes would count twice.")  # fmt: skip
        if labels is None or check.problem:
            continue
        for number, line in enumerate(text_of(labels).splitlines(), start=1):
            if not line.strip():
                continue
            try:
                place = f"line {number}"
                _add_line(content, (image_id, place), line, (names, keypoints, (check.width, check.height)))
            except ValueError as error:
                problems.add("lines", str(error), f"{labels}, {place}")
    if not labelled:
        expected = _label_paths(images[0])[0]
        problems.add("labels", f"none of {len(images):,} images has a label file; that of {images[0]} is {expected}")
    elif labelled < len(images):
        first = next(image for image in images if label_file(image) is None)
        notes.append(f"{len(images) - labelled:,} of {len(images):,} images have no label file (the first is {first}); "
                     "they are used as images without objects. Remove those that are not labelled yet.")  # fmt: skip
    return Source(root, content=content.as_dict())


def label_file(image: Path) -> Path | None:
    """Return the label file of an image, or None."""
    return next((path for path in _label_paths(image) if path.is_file()), None)


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


def _label_paths(image: Path) -> list[Path]:
    """Return where labels can be: in ``labels`` instead of ``images``, beside the image, in a folder beside it."""
    text = image.with_suffix(".txt")
    parts = list(text.parts)
    places = [text, text.parent / "labels" / text.name, text.parent.parent / "labels" / text.name]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        places.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]))
    return places


def _add_line(
    content: CocoContent, at: tuple[int, str], line: str, expected: tuple[Sequence[str], int, tuple[int, int]]
) -> None:
    """Add the box of a line.

    Raises:
        ValueError: The line is invalid.
    """
    names, keypoints, (width, height) = expected
    image_id, place = at
    first, *rest = line.split()
    try:
        label, numbers = float(first), [float(value) for value in rest]
    except ValueError:
        raise ValueError(f"{line[:80]!r} has text; {_LINE}") from None
    if not label.is_integer() or not 0 <= label < len(names):
        raise ValueError(f"class {first[:20]}; there are {len(names)} names, so it must be 0 to {len(names) - 1}")
    if keypoints and len(numbers) == 4 + keypoints:
        numbers = numbers[:4]
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        score = " (is the last one a score?)" if len(numbers) == 5 else ""
        raise ValueError(f"{len(numbers)} numbers after the class{score}; {_LINE}")
    if not all(math.isfinite(value) and 1 - _ROUNDED <= value <= _ROUNDED for value in numbers):
        raise ValueError(f"{' '.join(rest)[:60]} are not all between 0 and 1; {_LINE}")
    name = names[int(label)]
    if len(numbers) == 4:
        x, y, w, h = (value * side for value, side in zip(numbers, (width, height) * 2, strict=True))
        content.add_box(image_id, name, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), place=place)
    else:
        xs, ys = [x * width for x in numbers[::2]], [y * height for y in numbers[1::2]]
        polygon = [value for point in zip(xs, ys, strict=True) for value in point]
        content.add_box(image_id, name, (min(xs), min(ys), max(xs), max(ys)), polygons=[polygon], place=place)
