"""Find the image files of an annotation file, also where the file says their names in another way."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_plus

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".avif", ".heic",
    ".heif", ".jp2",
)  # fmt: skip
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts this in front of uploaded files
_QUERY = re.compile(r"(\.\w{3,4})[?#].*$")  # of a URL
_MOST_FILES = 2_000_000


@dataclass(frozen=True)
class FoundFiles:
    """The files of the names, in order.

    Attributes:
        paths: [N] the path of each file. It can be missing.
        renamed: The names that differ from the name of their file, and that file.
        refused: Why a name must not be used, by index.
        other_suffix: The file that differs from a missing one by its suffix only, by index.
    """

    paths: list[Path]
    renamed: list[tuple[str, Path]]
    refused: dict[int, str]
    other_suffix: dict[int, Path]


def find_files(folder: Path, names: Sequence[str]) -> FoundFiles:
    """Find image files in a folder.

    A name that is not there is compared without regard to backslashes, percent codes, the query of a URL, Unicode
    normalization and case; then by its last part alone, if only one file and only one name have it. Files outside the
    folder are never used.

    Args:
        folder: The folder that the names are relative to.
        names: The names in the annotation file, possibly with folders.
    """
    root = os.path.abspath(folder)
    paths: list[Path] = []
    missing: list[int] = []
    refused: dict[int, str] = {}
    for place, name in enumerate(names):
        path = _inside(root, name)
        paths.append(folder / name if path is None else Path(path))
        if path is None or not os.path.lexists(path):
            missing.append(place)
    renamed, other_suffix = [], dict[int, Path]()
    if missing:
        index = _Index(root, [names[place] for place in missing])
        taken = {os.path.abspath(path) for path in paths}
        for place in missing:
            found = index.find(names[place])
            if found is not None and str(found) not in taken:
                taken.add(str(found))
                paths[place] = found
                renamed.append((names[place], found))
            elif _inside(root, names[place]) is None:
                refused[place] = f'file_name "{shown_name(names[place])}" is outside the image folder {folder}'
            elif (other := index.with_other_suffix(names[place])) is not None:
                other_suffix[place] = other
    return FoundFiles(paths, renamed, refused, other_suffix)


def shown_name(name: str) -> str:
    """Return a file name that can be printed."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")[:200]


def image_files(folder: Path) -> list[Path]:
    """Return the images in a folder and its subfolders, sorted by path. Hidden files and folders are left out.

    Raises:
        OSError: A folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, files in os.walk(folder, onerror=stop):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in files if is_image_name(name)]
    return sorted(found)


def inner_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones. Names can have dots, as ``my.v1.yolov8``.

    Raises:
        OSError: The folder cannot be read.
    """
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def in_any_case(path: Path) -> Path | None:
    """Return a path, or the only one whose folders and name differ by case only; None if there is none."""
    try:
        if path.exists():
            return path
        parent = None if path.parent == path else in_any_case(path.parent)
        same = [] if parent is None else [name for name in os.listdir(parent) if name.lower() == path.name.lower()]
    except (OSError, ValueError):
        return None
    return parent / same[0] if parent is not None and len(same) == 1 else None


def is_image_name(name: str) -> bool:
    """Return whether a file name is that of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def _inside(root: str, name: str) -> str | None:
    """Return the path of a name in a folder; None if it is outside, or no path at all."""
    path = os.path.normpath(os.path.join(root, name))
    if not path.startswith(root.rstrip(os.sep) + os.sep) or "\0" in name:
        return None
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return None
    return path


def _plain(name: str) -> str:
    path = unquote_plus(_QUERY.sub(r"\1", name.replace("\\", "/").strip()))
    return unicodedata.normalize("NFC", path).casefold()


def _last(name: str) -> str:
    return PurePosixPath(_plain(name)).name


class _Index:
    """The files below a folder by plain name, and by the last part of it."""

    def __init__(self, root: str, wanted: Sequence[str]) -> None:
        self.root = root
        self.by_name: dict[str, list[str]] = defaultdict(list)
        self.by_last: dict[str, list[str]] = defaultdict(list)
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        self.wanted = Counter(map(_without_upload, map(_last, wanted)))
        count = 0
        for parent, folders, files in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for file in filter(is_image_name, files):
                path = os.path.join(parent, file)
                name = _plain(os.path.relpath(path, root).replace(os.sep, "/"))
                self.by_name[name].append(path)
                for key in {_stem(name), _stem(PurePosixPath(name).name)}:
                    self.by_stem[key].append(path)
                self.by_last[_without_upload(_last(file))].append(path)
            count += len(files)
            if count > _MOST_FILES:
                break

    def find(self, name: str) -> Path | None:
        exact = self.by_name.get(os.path.normpath(_plain(name)), ())
        if len(exact) == 1:
            return Path(exact[0])
        last = _without_upload(_last(name))
        same = self.by_last.get(last, ())
        return Path(same[0]) if len(same) == 1 and self.wanted[last] == 1 else None

    def with_other_suffix(self, name: str) -> Path | None:
        for key in (_stem(os.path.normpath(_plain(name))), _stem(_last(name))):
            if len(same := self.by_stem.get(key, [])) == 1:
                return Path(same[0])
        return None


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _without_upload(name: str) -> str:
    return _UPLOAD.sub("", name)
