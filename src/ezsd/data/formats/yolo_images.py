"""The images of the parts of YOLO data sets: folders, and text files that list images."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ezsd.data.formats.image_files import image_files, in_any_case, is_image_name
from ezsd.data.formats.text_files import text_of
from ezsd.errors import DataError
from ezsd.utils.format import counted, plural


def without_train_images(images: Mapping[str, list[Path]], where: str, notes: list[str]) -> dict[str, list[Path]]:
    """Return the parts without those that have only train images, because figures of them would be too good.

    Args:
        images: The images of each part.
        where: What names them.
        notes: Gets a note on each part that is left out.

    Raises:
        DataError: A part has some images of the train part.
    """
    if "train" not in images:
        return dict(images)
    kept = {"train": images["train"]}
    train = {os.path.realpath(image) for image in images["train"]}
    for part, listed in images.items():
        shared = [image for image in listed if part != "train" and os.path.realpath(image) in train]
        if shared and len(shared) < len(listed):
            raise DataError(f"{where}: {len(shared):,} of {len(listed):,} {part} images "
                            f"{plural(len(shared), 'is', 'are')} also in the train part (the first is {shared[0]}), so "
                            "the figures would be too good. Remove them from one of the two parts.")  # fmt: skip
        if shared:
            notes.append(f"{where}: the {part} part has only images of the train part, on which the figures would be "
                         "too good; it is left out.")  # fmt: skip
        else:
            kept[part] = listed
    return kept


@dataclass(frozen=True)
class Places:
    """Where the relative paths of a data set are searched for: inside the data set, and in folders with absolute paths.

    Attributes:
        bases: The folders that paths are relative to.
        roots: The folders that relative paths do not leave.
    """

    bases: Sequence[Path]
    roots: Sequence[Path]

    def find(self, text: str) -> Path | None:
        """Return the path that exists.

        Roboflow writes ``../train/images`` for a folder beside ``data.yaml``, so ``..`` at first is left out.
        """
        return _first_existing(self._candidates(text))

    def find_any_case(self, text: str) -> Path | None:
        """Return the path that exists if case does not matter, as on Windows."""
        return _first_any_case(self._candidates(text))

    def find_end(self, text: str) -> Path | None:
        """Return the longest end of a path that exists: absolute paths are often those of another machine."""
        return _first_existing(self._ends(text))

    def find_end_any_case(self, text: str) -> Path | None:
        """Return the longest end of a path that exists if case does not matter."""
        return _first_any_case(self._ends(text))

    def outside(self, text: str) -> Path | None:
        """Return the path that exists outside of the data set and that a relative path would be."""
        if Path(text).is_absolute():
            return None
        return _first_existing([path for path in self._literal(_parts(text)[0]) if not self._is_inside(path)])

    def _ends(self, text: str) -> list[Path]:
        inner = _parts(text)[1]
        ends = [base.joinpath(*inner[start:]) for start in range(1, len(inner)) for base in self.bases]
        return [path for path in ends if self._is_inside(path)]

    def _candidates(self, text: str) -> list[Path]:
        parts, inner = _parts(text)
        below = inner if inner or ".." not in parts else parts
        candidates = [Path(text)] if Path(text).is_absolute() else []
        candidates += [base.joinpath(*below) for base in self.bases if self._is_inside(base.joinpath(*below))]
        return candidates + [path for path in self._literal(parts) if self._is_inside(path)]

    def _literal(self, parts: Sequence[str]) -> list[Path]:
        return [Path(os.path.abspath(base.joinpath(*parts))) for base in self.bases]

    def _is_inside(self, path: Path) -> bool:
        return any(Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root)) for root in self.roots)


def listed_images(given: Any, places: Places, where: str, notes: list[str]) -> list[Path]:
    """Return the images of one part: those of folders, and those listed in text files.

    Args:
        given: A path, or a list of paths.
        places: Where the paths are searched for.
        where: What names the paths, for messages.
        notes: Gets notes on images that are listed, but missing, on lines that are one image, and on other folders.

    Raises:
        DataError: A path is outside of the data set, or one of several is missing.
    """
    images: list[Path] = []
    missing: list[str] = []
    entries = [str(entry) for entry in (given if isinstance(given, list) else [given])]
    for entry in entries:
        found = _place_of(entry, places, where, notes)
        if found is None:
            missing.append(entry)
        elif found.is_dir():
            images += image_files(found)
        elif found.suffix.lower() == ".txt":
            images += _images_of_list(found, places, notes)
    if missing and len(missing) < len(entries):
        raise DataError(f"{where} has {missing[0]!r}, which is not there. Fix the path, or remove it from the list.")
    return list(dict.fromkeys(images))


def _place_of(entry: str, places: Places, where: str, notes: list[str]) -> Path | None:
    """Return the folder or list that a path names.

    Raises:
        DataError: It is outside of the data set.
    """
    found = places.find(entry)
    if found is None and (outside := places.outside(entry)):
        above = os.path.commonpath([outside, *(os.path.abspath(root) for root in places.roots)])
        raise DataError(
            f"{where} is {entry!r}, which is {outside}, outside of the data set {places.roots[0]}. Give a folder that "
            f"has both, such as {above}, as the data set, or write an absolute path."
        )
    found = found or places.find_any_case(entry)
    if found is None:
        found = places.find_end(entry) or places.find_end_any_case(entry)
        if found is not None and found.is_dir():  # CVAT's data/train.txt is as good
            notes.append(f"{where} is {entry!r}, which is not there; {found} is read instead.")
    return found


def _images_of_list(file: Path, places: Places, notes: list[str]) -> list[Path]:
    inside = Places([file.parent, *places.bases], [*places.roots, file.parent])
    lines = [line.strip() for line in text_of(file).splitlines()]
    listed = {line: inside.find(line) or inside.find_end(line) for line in lines if line}
    notes += _merged_notes(file, listed)
    missing = [line for line, image in listed.items() if image is None]
    if missing:
        notes.append(f"{len(missing):,} of {counted(len(listed), 'image')} that {file} lists "
                     f"{plural(len(missing), 'is', 'are')} missing (the first is {missing[0][:200]}); they are left "
                     "out.")  # fmt: skip
    return [image for image in listed.values() if image is not None and is_image_name(image.name)]


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
    return [f"{counted(again, 'line')} of {where} {plural(again, 'is', 'are')} found as an image that another line "
            f"names, too ({first[:200]} and {second[:200]} are both {image}); it is used once. If they are different "
            "images, write paths that exist."
            ]  # fmt: skip


def _parts(text: str) -> tuple[list[str], list[str]]:
    """Return the parts of a path, and those without ``..``."""
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    return parts, [part for part in parts if part != ".."]


def _first_existing(candidates: Sequence[Path]) -> Path | None:
    for candidate in candidates:
        try:
            if candidate.exists():
                return candidate
        except (OSError, ValueError):
            continue
    return None


def _first_any_case(candidates: Sequence[Path]) -> Path | None:
    return next((found for path in candidates if (found := in_any_case(path)) is not None), None)
