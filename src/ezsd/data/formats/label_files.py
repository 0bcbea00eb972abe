"""Find the label files of YOLO images, inside of the data set."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ezsd.data.formats.image_files import in_any_case, is_image_name
from ezsd.utils.format import counted, plural

_SUFFIX = ".txt"


def label_paths(image: Path) -> list[Path]:
    """Return where labels can be: in ``labels`` instead of ``images``, beside the image, in a folder beside it."""
    text = image.with_suffix(_SUFFIX)
    parts = list(text.parts)
    places = [text, text.parent / "labels" / text.name, text.parent.parent / "labels" / text.name]
    folders = [part.lower() for part in parts[:-1]]
    if "images" in folders:
        last = len(folders) - 1 - folders[::-1].index("images")
        places.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]))
    return places


class LabelFiles:
    """The label files of the images of a data set. The names of folders and the suffix can have any case.

    Images inside the data set have label files inside it; those that an absolute path names have them beside them.

    Args:
        folder: The data set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._folders: dict[Path, Path | None] = {}
        self._texts: dict[Path, dict[str, Path]] = {}

    def of(self, image: Path) -> Path | None:
        """Return the label file of an image, or None."""
        return self._first(self._places(image))

    def of_no_image(self, images: Sequence[Path]) -> list[Path]:
        """Return the files with boxes in the folders where the label files of images can be."""
        places = [place.parent for parent in {image.parent for image in images} for place in self._places(parent / "a")]
        folders = {folder for place in places if (folder := self._existing(place)) is not None}
        texts = [path for folder in sorted(folders) for path in sorted(self._in(folder).values())]
        return [path for path in texts if has_boxes(path)]

    def problem(self, images: Sequence[Path]) -> str:
        """Return what is wrong with images without any label file, and what label files are there instead."""
        cause = self.cause(images)
        return (f"none of {counted(len(images), 'image')} has a label file; that of {images[0]} is expected at "
                f"{self._places(images[0])[0]}{'. ' if cause else ''}{cause}")  # fmt: skip

    def notes(self, images: Iterable[Path]) -> list[str]:
        """Return a note if label files lie beside those of the images, but have no image."""
        folders: dict[Path, set[Path]] = defaultdict(set)
        for image in images:
            if labels := self.of(image):
                folders[labels.parent].add(image.parent)
        listings = {folder: os.listdir(folder) for inner in folders.values() for folder in inner}
        spare: list[Path] = []
        total = 0
        for folder, parents in sorted(folders.items()):
            known = {os.path.splitext(name)[0] for each in parents for name in listings[each] if is_image_name(name)}
            texts = self._in(folder)
            total += sum(stem in known for stem in texts)
            spare += [path for stem, path in sorted(texts.items()) if stem not in known and has_boxes(path)]
        if not spare:
            return []
        return [f"{len(spare):,} of {counted(total + len(spare), 'label file')} {plural(len(spare), 'has', 'have')} no "
                f"image (the first is {spare[0]}); their boxes are not read."]  # fmt: skip

    def _outside(self, images: Sequence[Path]) -> Path | None:
        return self._first([path for path in label_paths(images[0].absolute()) if not self._is_inside(path)])

    def cause(self, images: Sequence[Path]) -> str:
        """Return where label files are that are not those of images; an empty text if there are none."""
        if spare := self.of_no_image(images):
            return (f"{counted(len(spare), 'label file is', 'label files are')} there, but none has the name of an "
                    f"image (the first is {spare[0]}): a label file is named like its image, apart from the "
                    "suffix")  # fmt: skip
        if outside := self._outside(images):
            return (f"{outside} is outside of the data set {self.folder}: give a folder that has both, such as "
                    f"{os.path.commonpath([outside.parent, images[0].absolute().parent])}")  # fmt: skip
        if elsewhere := next(filter(has_boxes, self.texts_of(images)), None):
            return (f"{elsewhere} has the name of an image, but lies elsewhere: name the folder of the images "
                    "\"images\", and that of the label files \"labels\"")  # fmt: skip
        return ""

    def texts_of(self, images: Sequence[Path]) -> Iterator[Path]:
        """Yield the text files of the data set that have the name of an image."""
        stems = {image.stem for image in images}
        for parent, folders, _ in os.walk(self.folder):
            folders.sort()
            yield from (path for stem, path in self._in(Path(parent)).items() if stem in stems)

    def _places(self, image: Path) -> list[Path]:
        places = label_paths(image)
        return [place for place in places if self._is_inside(place)] if self._is_inside(image) else places

    def _is_inside(self, path: Path) -> bool:
        return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(self.folder))

    def _first(self, places: Sequence[Path]) -> Path | None:
        for place in places:
            folder = self._existing(place.parent)
            if folder is not None and (found := self._in(folder).get(place.stem)):
                return found
        return None

    def _existing(self, folder: Path) -> Path | None:
        if folder not in self._folders:
            found = in_any_case(folder)
            self._folders[folder] = found if found is not None and found.is_dir() else None
        return self._folders[folder]

    def _in(self, folder: Path) -> dict[str, Path]:
        """Return the text files in a folder by stem."""
        if folder not in self._texts:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.name.lower().endswith(_SUFFIX) and entry.is_file()]
            names.sort()  # .txt is after .TXT
            self._texts[folder] = {name[: -len(_SUFFIX)]: folder / name for name in names}
        return self._texts[folder]


def has_boxes(path: Path) -> bool:
    """Return whether a text file begins as a label file with boxes does."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            first = file.readline(10_000).split()
        return len(first) > 4 and all(math.isfinite(float(value)) for value in first)
    except (OSError, ValueError):
        return False
