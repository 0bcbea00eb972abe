"""Pascal VOC data sets: an XML file for each image."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import takewhile
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ezsd.data.formats.content import CocoContent
from ezsd.data.formats.corners import corner_sources
from ezsd.data.formats.image_files import IMAGE_SUFFIXES, image_files, inner_folders
from ezsd.data.formats.problems import Problems
from ezsd.data.formats.recognize import DataSet, head_of, part_of
from ezsd.data.formats.xml_files import number_in, read_xml, side_in
from ezsd.data.samples import ImageSet
from ezsd.errors import DataError
from ezsd.utils.files import write_text

_VOC = re.compile("<annotation(?!s)")  # annotations are those of CVAT
_LISTS = Path("ImageSets", "Main")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAG = re.compile(r"\s+(1|0|-1)$")  # whether an image has an object of a category
_PARTS = ("train", "val", "test")
_IMAGE_FOLDERS = ("jpegimages", "images")
_LIKE_FOLDERS = (*_IMAGE_FOLDERS, "annotations", "labels")  # what differs in the paths of an image and its XML file
_LIST_NAMES = {
    "train": "train", "training": "train", "trainval": "trainval", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def open_voc(folder: Path, files: list[Path], box_format: str | None = None) -> DataSet | None:
    """Read the XML files of a data set, or return None if there are none.

    The parts are those of ``ImageSets/Main`` (in each year of VOCdevkit), or folders with their names. Boxes are read
    as VOC defines them: xmin to xmax are pixels counted from 1, both included. Difficult objects become crowd boxes,
    which are ignored in training and evaluation as VOC ignores them.

    Raises:
        DataError: Files cannot be read. All problems are reported.
    """
    files = [path for path in files if path.suffix.lower() == ".xml" and _VOC.search(head_of(path))]
    if not files:
        return None
    problems = Problems()
    by_part: dict[str, list[Path]] = defaultdict(list)
    listed = _read_lists(folder, files, problems)
    for path in files:
        part = listed.parts.get(path) if listed.used else part_of(path.parent, folder) or "train"
        if part is not None:
            by_part[part].append(path)
    images = _Images(folder)
    contents = {part: _read(by_part[part], folder, images, problems) for part in _PARTS if part in by_part}
    if problems:
        raise DataError(problems.shown())
    parts = corner_sources(contents, folder, box_format, first_pixel=1)
    if "train" not in parts:
        raise DataError(f"{folder}: {len(files):,} XML files, but none of the train part.")
    notes = (*_list_notes(listed, len(files)), *_rename_notes(images.renamed))
    names = {entry["name"] for source in parts.values() for entry in (source.content or {})["categories"]}
    return DataSet(f"Pascal VOC, {len(files):,} XML files: parts {', '.join(parts)}; {len(names)} names", parts, notes)


def _list_notes(listed: _Lists, count: int) -> tuple[str, ...]:
    notes = []
    if listed.used and count > len(listed.parts):
        notes.append(f"{count - len(listed.parts):,} XML files are in no list of {_LISTS} and are left out.")
    if listed.missing:
        notes.append(f"{len(listed.missing):,} names in the lists of {_LISTS} have no XML file and are left out; the "
                     f"first is {min(listed.missing)}.")  # fmt: skip
    if listed.other:
        notes.append(f"Lists of {_LISTS} that name no part are not used: {', '.join(map(str, listed.other[:10]))}"
                     f"{' ...' if len(listed.other) > 10 else ''}.")  # fmt: skip
    return tuple(notes)


def _rename_notes(renamed: Sequence[PurePath]) -> tuple[str, ...]:
    if not renamed:
        return ()
    return (f"{len(renamed):,} XML files name another image than the one with their own name, which is used; the first "
            f"is {renamed[0]}.",)  # fmt: skip


def write_voc(parts: Mapping[str, ImageSet], files: Mapping[str, Sequence[str]], out: Path) -> list[str]:
    """Write ``Annotations`` and ``ImageSets/Main`` of images that lie in ``out/JPEGImages``.

    Args:
        parts: The images by part.
        files: The file names of the images of each part, without folders. Their stems are unique.
        out: The folder of the data set.

    Returns:
        Notes on what the format cannot hold: masks, and names with spaces around them or control characters, which are
        written in another way.
    """
    written = _written_names([name for images in parts.values() for name in images.names])
    for part, images in parts.items():
        stems = []
        for image, name in zip(images, files[part], strict=True):
            root = Element("annotation")
            _add(root, {"folder": "JPEGImages", "filename": name})
            _add(SubElement(root, "size"), {"width": image.width, "height": image.height, "depth": 3})
            columns = (image.boxes.tolist(), image.labels.tolist(), image.crowd.tolist())
            for box, label, crowd in zip(*columns, strict=True):
                item = SubElement(root, "object")
                _add(item, {"name": written[images.names[label - 1]], "difficult": int(crowd)})
                numbers = [f"{value:.4f}".rstrip("0").rstrip(".") for value in (box[0] + 1, box[1] + 1, *box[2:])]
                _add(SubElement(item, "bndbox"), dict(zip(_CORNERS, numbers, strict=True)))
            indent(root)
            stems.append(PurePosixPath(name).stem)
            write_text(out / "Annotations" / f"{stems[-1]}.xml", tostring(root, encoding="unicode") + "\n")
        write_text(out / _LISTS / f"{part}.txt", "".join(f"{stem}\n" for stem in stems))
    masks = any(part.has_masks for part in parts.values())
    return [*(["Masks are left out: boxes are written."] if masks else ()), *_name_notes(written)]


def _written_names(names: Sequence[str]) -> dict[str, str]:
    """Return the text of each name in XML files, as it is read again; different names have different texts."""
    texts = {name: _text(name).strip() or "unnamed" for name in names}
    taken = {name for name, text in texts.items() if name == text}
    for name, text in texts.items():
        if name != text:
            free, number = text, 1
            while free in taken:
                number += 1
                free = f"{text} {number}"
            taken.add(free)
            texts[name] = free
    return texts


def _name_notes(written: Mapping[str, str]) -> list[str]:
    changed = [f"{name!a} as {text!a}" for name, text in written.items() if name != text]
    if not changed:
        return []
    return [f"{len(changed):,} names have spaces around them or characters that XML has not, and are written in "
            f"another way: {', '.join(changed[:10])}{' ...' if len(changed) > 10 else ''}."]  # fmt: skip


def _add(parent: Element, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        SubElement(parent, key).text = _text(str(value))


def _text(value: str) -> str:
    """Return a text without the characters that XML has not."""
    return re.sub("[\0-\x1f\ud800-\udfff\ufffe\uffff]", "", value)


@dataclass(frozen=True)
class _Lists:
    """What the lists of a data set say.

    Attributes:
        parts: The part of each XML file that is in a list.
        missing: The names that no XML file has.
        other: The lists that are not those of a part, relative to the folder of the data set.
        used: Whether there are names in a list of a part.
    """

    parts: dict[Path, str] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    other: Sequence[PurePath] = ()
    used: bool = False


def _read_lists(folder: Path, files: Sequence[Path], problems: Problems) -> _Lists:
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
                problems.add("names in lists", f"{path} is in the lists of several parts in {top / _LISTS}: "
                             f"{', '.join(dict.fromkeys(its_names))}")  # fmt: skip
            parts[path] = exact[0] if exact else "train"
    return _Lists(parts, missing, other, bool(names))


def _tops(folder: Path, files: Sequence[Path]) -> set[Path]:
    """Return the folders of a data set that XML files are in, at any depth."""
    inner = {path.parent for path in files}
    return {top for path in inner for top in (path, *path.parents) if top == folder or folder in top.parents}


def _list_files(top: Path) -> list[Path]:
    """Return the lists in the folder ``ImageSets/Main`` of a folder, whose names can have any case."""
    folders = [top]
    for name in _LISTS.parts:
        folders = [path for each in folders for path in inner_folders(each) if path.name.lower() == name.lower()]
    return sorted(path for each in folders for path in each.glob("[!.]*") if path.suffix.lower() == ".txt")


def _names_by_list(lists: Sequence[Path]) -> dict[str, list[str]]:
    """Return the lines of the lists of train, trainval, val and test."""
    lines: dict[str, list[str]] = defaultdict(list)
    for path in lists:
        name = _LIST_NAMES.get(path.stem.lower())
        if name is not None:
            text = path.read_text(encoding="utf-8-sig", errors="replace")
            lines[name] += [line.strip() for line in text.split("\n") if line.strip()]
    return lines


def _is_other(path: Path, lists: Sequence[Path]) -> bool:
    """Return whether a list is neither that of a part nor that of a category in another list: ``cat_train.txt``."""
    stem = path.stem.lower()
    stems = {each.stem.lower() for each in lists}
    return stem not in _LIST_NAMES and not ("_" in stem and stem.rpartition("_")[2] in stems)


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
    *folders, last = _path_parts(name) or ("",)
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


class _Images:
    """The images of a data set by their name and stem, as the parts of their paths below its folder.

    Attributes:
        renamed: The XML files whose ``<filename>`` is another image than the one with their own stem, which is used.
        xml_files: The XML file of each image that was used.
    """

    def __init__(self, folder: Path) -> None:
        self.by_name: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for path in image_files(folder):
            for key in {path.name, path.stem}:
                self.by_name[key].append(path.relative_to(folder).parts)
        self.renamed: list[PurePath] = []
        self.xml_files: dict[PurePath, Path] = {}

    def find(self, xml: PurePath, name: str, folder: str) -> list[PurePath]:
        """Return the image of an XML file; several if all of them could be meant.

        The image at the place of the XML file among the images wins if its stem is that of the XML file, which is
        renamed together with the image, while the name in it is not.

        Args:
            xml: The XML file, relative to the folder of the data set.
            name: The name of the image in it, possibly with folders.
            folder: The folder in it.
        """
        return [PurePath(*parts) for parts in self._find(xml, _path_parts(name), _path_parts(folder))]

    def _find(self, xml: PurePath, name: tuple[str, ...], folder: tuple[str, ...]) -> list[tuple[str, ...]]:
        last = name[-1] if name else xml.stem
        said = name if len(name) > 1 else (*folder, *name)
        own, named = ([*self.by_name.get(key, ())] for key in (xml.stem, last))
        named = [path for path in named if path[-1] == last] or named
        if xml.stem not in (last, PurePosixPath(last).stem):
            nearest = _nearest(own, xml.parts, said)
            if len(nearest) == 1 and _is_mirrored(nearest[0], xml.parts):
                if named:
                    self.renamed.append(xml)
                return nearest
            own = own or [*self.by_name.get(PurePosixPath(last).stem, ())]
            return _nearest(_with_end(named, name) or named or own, xml.parts, said)
        if len(name) > 1 and (exact := _with_end(named, name)):
            return _nearest(exact, xml.parts, said)
        same = named == own
        named = _nearest(named, xml.parts, said)
        own = named if same else _nearest(own, xml.parts, said)
        if named and own and _shared(own[0][:-1], xml.parts[:-1]) > _shared(named[0][:-1], xml.parts[:-1]):
            return [*named, *own]  # the one has the name with its suffix, the other one the folders
        return named or own


def _path_parts(text: str) -> tuple[str, ...]:
    """Return the parts of a path with either kind of slashes."""
    return tuple(part for part in re.split(r"[\\/]", text.strip()) if part not in ("", ".", ".."))


def _with_end(paths: Sequence[tuple[str, ...]], parts: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [path for path in paths if path[-len(parts) :] == parts]


def _nearest(images: Sequence[tuple[str, ...]], xml: tuple[str, ...], said: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return those of the images that lie like an XML file: in the same folders, but below another one.

    Args:
        images: The images that could be meant.
        xml: The XML file.
        said: The parts of the path in the XML file.
    """
    folders = xml[:-1]
    scores: tuple[Callable[[tuple[str, ...]], int], ...] = (
        lambda path: _shared(path[:-1], folders),
        lambda path: len(path) == len(xml),
        lambda path: _same_end(path, said),
        lambda path: any(part.lower() in _IMAGE_FOLDERS for part in path[:-1]),
    )
    left = [*images]
    for score in scores:
        if len(left) < 2:
            break
        values = [score(path) for path in left]
        best = max(values)
        left = [path for path, value in zip(left, values, strict=True) if value == best]
    return left


def _same_end(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many parts at the end of two paths are the same."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_mirrored(image: tuple[str, ...], xml: tuple[str, ...]) -> bool:
    """Return whether an image lies like an XML file: at most one folder has another name."""
    one, other = image[:-1], xml[:-1]
    return _shared(one, other) >= max(len(one), len(other)) - 1


@lru_cache(maxsize=1 << 20)
def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Return how many folders two paths have in common, in this order."""
    if not one or not other:
        return 0
    if one[-1] == other[-1]:
        return 1 + _shared(one[:-1], other[:-1])
    return max(_shared(one[:-1], other), _shared(one, other[:-1]))


def _image_of(xml: Path, root: Element, folder: Path, images: _Images, problems: Problems) -> PurePath | None:
    """Return the image of an XML file; None if there is none, or not one of its own, which is added to the problems."""
    name = root.findtext("filename") or ""
    found = images.find(xml.relative_to(folder), name, root.findtext("folder") or "")
    if not found:
        problems.add("images", f"{xml}: its image {(name or xml.stem)[:80]!r} is missing")
    elif len(found) > 1:
        problems.add("images", f"{xml}: its image could be {folder / found[0]} or {folder / found[1]}")
    elif (first := images.xml_files.setdefault(found[0], xml)) != xml:
        problems.add("XML files of one image", f"{xml} and {first} are both XML files of the image {folder / found[0]}")
    else:
        return found[0]
    return None


def _read(files: Sequence[Path], folder: Path, images: _Images, problems: Problems) -> CocoContent:
    content = CocoContent()
    for path in files:
        root = read_xml(path, problems)
        image = None if root is None else _image_of(path, root, folder, images, problems)
        if root is None or image is None:
            continue
        width, height = (side_in(root.findtext(f"size/{key}")) for key in ("width", "height"))
        image_id = content.add_image(image.as_posix(), width, height)
        for place, item in enumerate(root.findall("object"), start=1):
            name = (item.findtext("name") or "").strip()
            corners = [number_in(item.findtext(f"bndbox/{key}")) for key in _CORNERS]
            if not name or not all(map(math.isfinite, corners)):
                problems.add("objects", f"{path}: object {place}: expected a name, and a bndbox with "
                             f"{', '.join(_CORNERS)} in pixels")  # fmt: skip
                continue
            content.add_box(image_id, name, corners, number_in(item.findtext("difficult")) == 1)
    return content
