"""The images of the parts of YOLO data sets: folders, and text files that list images."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ezsd.data.formats.image_files import image_files, is_image_name
from ezsd.errors import DataError


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
