"""Find image and video files in folders; without torch."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ezsd.data.formats.image_files import IMAGE_SUFFIXES

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp", ".mjpeg")


def until_magic(path: Path) -> Iterator[str]:
    """Yield the parts of the path of a pattern before the first with a wildcard."""
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def files_below(folder: Path, exclude: Path | None) -> list[Path]:
    """Return the images and videos in a folder and its folders, without hidden ones, in natural order."""
    found = []
    exclude = None if inside(folder, exclude) else exclude  # the output folder is around the source
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = [
            name for name in folders if not name.startswith((".", "__MACOSX")) and not inside(here / name, exclude)
        ]
        found += [here / name for name in files if is_media(Path(name)) and not name.startswith(".")]
    return sorted(found, key=natural)


def inside(path: Path, folder: Path | None) -> bool:
    """Return whether a path lies in a folder, if there is one."""
    return folder is not None and path.resolve().is_relative_to(folder)


def is_media(path: Path) -> bool:
    """Return whether a file is an image or a video by its suffix."""
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEOS)


def natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts ``frame_2`` before ``frame_10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.as_posix())]
