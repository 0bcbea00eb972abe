"""Find the annotation files and image folders of data sets in COCO or LVIS format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from ezsd.data.formats.coco_entries import entry_file_name
from ezsd.data.formats.coco_json import read_annotations
from ezsd.data.formats.file_heads import head_of, is_label_studio, other_json
from ezsd.data.formats.image_files import inner_folders
from ezsd.data.formats.recognize import DataSet, Source, part_of
from ezsd.errors import DataError

_SAMPLE = 20  # images that must be found in a folder
_MOST_FOLDERS = 200


def open_coco(folder: Path, files: list[Path], is_file: bool = False) -> DataSet | None:
    """Return the parts of a data set in COCO format, or None.

    The layouts of Roboflow (``train/_annotations.coco.json``), COCO (``annotations/instances_train2017.json`` beside
    ``train2017``), FiftyOne (``labels.json`` beside ``data``), CVAT and Label Studio are found by where the images are.

    Args:
        folder: The data set, or the folder of a file that was given alone.
        files: The files in it that can be annotations.
        is_file: Whether a file was given alone; then its images can also be beside or above its folder.

    Raises:
        DataError: A file cannot be read, or several files could be the train part.
    """
    by_part: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if path.suffix.lower() == ".json" and _is_coco(path):
            by_part[part_of(path, folder) or "train"].append(path)
    if not by_part:
        return None
    for part, paths in by_part.items():
        if len(paths) > 1:
            listed = ", ".join(str(path.relative_to(folder)) for path in paths[:5])
            raise DataError(f"{folder}: {len(paths)} annotation files could be the {part} part: {listed}. Give the one "
                            "to use, and others with --val-annotations.")  # fmt: skip
    sources = {part: Source(_image_folder(path, folder, part, is_file), path) for part, (path,) in by_part.items()}
    names = ", ".join(str(path.relative_to(folder)) for (path,) in by_part.values())
    notes = [
        f"No image is beside or below {source.annotations}; those in {source.images} are used."
        for source in sources.values()
        if not source.images.absolute().is_relative_to(folder.absolute())
    ]
    return DataSet(f"{_kind(next(iter(by_part.values()))[0])}, from {names}", sources, tuple(notes))


def _kind(path: Path) -> str:
    """Return the format for people; images of LVIS say which categories are absent."""
    entries = read_annotations(path).images
    lvis = bool(entries) and isinstance(entries[0], dict) and "neg_category_ids" in entries[0]
    return "LVIS v1" if lvis else "COCO JSON"


def holds_images(folder: Path, names: Sequence[str]) -> bool:
    """Return whether any of the first images is in a folder, as it is named."""
    return any(_is_file(folder, name) for name in names[:_SAMPLE])


def _is_coco(path: Path) -> bool:
    head = head_of(path)
    if '"images":[' in head:
        return '"shapes":' not in head and not is_label_studio(path)
    return ('"annotations":[' in head or '"categories":[' in head) and '"shapes":' not in head and not other_json(path)


def _image_folder(annotations: Path, root: Path, part: str, is_file: bool) -> Path:
    """Return the folder in which the most of the first images are; the root if none is found as it is named.

    Folders beside and above the root are used only for a file that was given alone, and if no image is inside of it.
    """
    entries = read_annotations(annotations).images[:_SAMPLE]
    names = [name for entry in entries if isinstance(entry, dict) and (name := entry_file_name(entry))]
    best, most = annotations.parent if annotations.parent.name != "annotations" else root, 0
    for folder in _folders(annotations.parent, root, part):
        found = sum(_is_file(folder, name) for name in names)
        if found > most:
            best, most = folder, found
        if names and found == len(names):
            break
    if is_file and not most:
        counts = {folder: sum(_is_file(folder, name) for name in names) for folder in _above(root, part)}
        if any(counts.values()):
            best = max(counts, key=counts.__getitem__)
    return best


def _above(root: Path, part: str) -> list[Path]:
    """Return folders beside and above that of a file that was given alone, such as ``annotations`` of COCO."""
    home = root.absolute().parent
    try:
        beside = inner_folders(home)
        inner = [folder for name in ("images", part) if (home / name).is_dir() for folder in inner_folders(home / name)]
    except OSError:
        return []
    return sorted([home, *beside, *inner], key=lambda folder: part_of(folder, home) != part)


def _is_file(folder: Path, name: str) -> bool:
    try:
        return ".." not in Path(name).parts and not Path(name).is_absolute() and (folder / name).is_file()
    except (OSError, ValueError):
        return False


def _folders(first: Path, root: Path, part: str) -> Iterator[Path]:
    """Yield folders that can hold images: near the annotations first, those named like the part before others."""
    yield first
    yield root
    level, seen = [first, root], 0
    while level and seen < _MOST_FOLDERS:
        inner = [folder for parent in dict.fromkeys(level) for folder in inner_folders(parent)]
        inner.sort(key=lambda folder: part_of(folder, root) != part)
        yield from inner
        seen += len(inner)
        level = inner
