"""The lists of Pascal VOC: ``ImageSets/Main`` names the images of each part."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ezsd.data.formats.image_files import IMAGE_SUFFIXES, inner_folders
from ezsd.data.formats.problems import Problems
from ezsd.data.formats.text_files import text_of
from ezsd.data.formats.voc_images import IMAGE_FOLDERS, path_parts
from ezsd.utils.format import counted, plural

LISTS = Path("ImageSets", "Main")
_FLAG = re.compile(r"\s+(1|0|-1)$")  # whether an image has an object of a category
_LIKE_FOLDERS = (*IMAGE_FOLDERS, "annotations", "labels")  # what differs in the paths of an image and its XML file
_LIST_NAMES = {
    "train": "train", "training": "train", "trainval": "trainval", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class VocLists:
    """What the lists of a data set say.

    Attributes:
        parts: The part of each XML file that is in a list.
        missing: The names that no XML file has.
        other: The lists that are not those of a part, relative to the folder of the data set.
        elsewhere: The lists of parts that are not in ``ImageSets/Main``, if there is none in it; they are not read.
        used: Whether there are names in a list of a part.
    """

    parts: dict[Path, str] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    other: Sequence[PurePath] = ()
    elsewhere: Sequence[PurePath] = ()
    used: bool = False


def read_lists(folder: Path, files: Sequence[Path], problems: Problems) -> VocLists:
    """Read ``ImageSets/Main`` beside the XML files or above them, as often as it is there: one for each year of VOC.

    Args:
        folder: The folder of the data set.
        files: The XML files. Each is in the lists of the innermost folder around it that has some.
        problems: XML files in the lists of several parts are added.
    """
    tops = {top: lists for top in sorted(_tops(folder, files)) if (lists := _list_files(top))}
    names = {top: named for top, lists in tops.items() if any((named := _names_by_list(lists)).values())}
    other = [path.relative_to(folder) for lists in tops.values() for path in lists if _is_other(path, lists)]
    inside: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        top = next((parent for parent in path.parents if parent in names), None)
        if top is not None:
            inside[top].append(path)
    parts: dict[Path, str] = {}
    missing: set[str] = set()
    for top, named in names.items():
        known = _XmlFiles(inside[top])
        found: dict[Path, list[str]] = defaultdict(list)
        for name in sorted(named, key=[*_LIST_NAMES].index):
            for entry in _entries(named[name], known):
                for path in known.find(entry):
                    found[path].append(name)
                if not known.find(entry):
                    missing.add(entry)
        for path, its_names in found.items():
            exact = [name for name in its_names if name != "trainval"]
            if len(set(exact)) > 1 or ("trainval" in its_names and "test" in exact):
                problems.add("names in lists", f"{path} is in the lists of several parts in {top / LISTS}: "
                             f"{', '.join(dict.fromkeys(its_names))}")  # fmt: skip
            parts[path] = exact[0] if exact else "train"
    return VocLists(parts, missing, other, () if names else _elsewhere(folder), bool(names))


def _tops(folder: Path, files: Sequence[Path]) -> set[Path]:
    """Return the folders of a data set that XML files are in, at any depth."""
    inner = {path.parent for path in files}
    return {top for path in inner for top in (path, *path.parents) if top == folder or folder in top.parents}


def _list_files(top: Path) -> list[Path]:
    """Return the lists in the folder ``ImageSets/Main`` of a folder, whose names can have any case."""
    folders = [top]
    for name in LISTS.parts:
        folders = [path for each in folders for path in inner_folders(each) if path.name.lower() == name.lower()]
    return sorted(path for each in folders for path in each.glob("[!.]*") if path.suffix.lower() == ".txt")


def _names_by_list(lists: Sequence[Path]) -> dict[str, list[str]]:
    """Return the lines of the lists of train, trainval, val and test."""
    lines: dict[str, list[str]] = defaultdict(list)
    for path in lists:
        name = _LIST_NAMES.get(path.stem.lower())
        if name is not None:
            lines[name] += [line.strip() for line in text_of(path).split("\n") if line.strip()]
    return lines


def _is_other(path: Path, lists: Sequence[Path]) -> bool:
    """Return whether a list is neither that of a part nor that of a category in another list: ``cat_train.txt``."""
    stem = path.stem.lower()
    stems = {each.stem.lower() for each in lists}
    return stem not in _LIST_NAMES and not ("_" in stem and stem.rpartition("_")[2] in stems)


def _elsewhere(folder: Path) -> list[PurePath]:
    """Return lists of parts in the data set itself, ``ImageSets``, or other folders in it than ``Main``."""
    below = [path for path in inner_folders(folder) if path.name.lower() == LISTS.parts[0].lower()]
    folders = [folder, *below, *(inner for path in below for inner in inner_folders(path))]
    found = [path for each in folders for path in sorted(each.glob("[!.]*.txt")) if path.stem.lower() in _LIST_NAMES]
    return [path.relative_to(folder) for path in found if path.parent.name.lower() != LISTS.name.lower()]


class _XmlFiles:
    """XML files by their names in lists."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.by_end: dict[tuple[str, ...], list[tuple[tuple[str, ...], Path]]] = defaultdict(list)
        for path in files:
            parts = _list_parts(str(path.absolute().with_suffix("")))
            for end in {parts[-1:], parts[-2:]}:
                self.by_end[end].append((parts, path))

    def find(self, name: str) -> list[Path]:
        """Return the XML files whose paths end as a name does, whatever the folder of all images is called."""
        parts = _list_parts(name)
        return [path for its_parts, path in self.by_end.get(parts[-2:], ()) if its_parts[-len(parts) :] == parts]


def _list_parts(name: str) -> tuple[str, ...]:
    *folders, last = path_parts(name) or ("",)
    return (*(part for part in folders if part.lower() not in _LIKE_FOLDERS), last)


def _entries(lines: Sequence[str], known: _XmlFiles) -> list[str]:
    """Return the name in each line of a list: the line, or the line without the 1, 0 or -1 behind it.

    Names can have spaces and end in a number, so the reading is used that gives more of the known names. A suffix of
    images or of XML files is left out.
    """
    whole = [_known_entry(line, known) for line in lines]
    without = [_known_entry(_FLAG.sub("", line), known) for line in lines]
    flagged = sum(bool(known.find(name)) for name in without) > sum(bool(known.find(name)) for name in whole)
    pairs = zip(without, whole, strict=True) if flagged else zip(whole, without, strict=True)
    return [second if not known.find(first) and known.find(second) else first for first, second in pairs]


def _known_entry(name: str, known: _XmlFiles) -> str:
    shorter, dot, suffix = name.rpartition(".")
    is_file = f"{dot}{suffix}".lower() in (*IMAGE_SUFFIXES, ".xml")
    return shorter if is_file and not known.find(name) else name


def list_notes(listed: VocLists, count: int) -> tuple[str, ...]:
    """Return notes on what the lists leave out, for ``count`` XML files."""
    notes = []
    if listed.used and count > len(listed.parts):
        notes.append(
            f"{counted(count - len(listed.parts), 'XML file is', 'XML files are')} in no list of {LISTS} and left out."
        )
    if listed.missing:
        notes.append(f"{counted(len(listed.missing), 'name')} in the lists of {LISTS} "
                     f"{plural(len(listed.missing), 'has no XML file and is', 'have no XML file and are')} left out; "
                     f"the first is {min(listed.missing)}.")  # fmt: skip
    if listed.other:
        notes.append(f"Lists of {LISTS} that name no part are not used: {', '.join(map(str, listed.other[:10]))}"
                     f"{' ...' if len(listed.other) > 10 else ''}.")  # fmt: skip
    if listed.elsewhere:
        notes.append(f"Lists of parts are read from {LISTS}; those elsewhere are not used: "
                     f"{', '.join(map(str, listed.elsewhere[:10]))}. Copy them to {LISTS} to use them.")  # fmt: skip
    return tuple(notes)
