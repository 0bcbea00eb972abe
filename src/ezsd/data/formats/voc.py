"""Pascal VOC data sets: an XML file for each image."""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ezsd.data.formats.content import CocoContent
from ezsd.data.formats.corners import corner_sources
from ezsd.data.formats.image_files import image_files
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


def open_voc(folder: Path, files: list[Path], box_format: str | None = None) -> DataSet | None:
    """Read the XML files of a data set, or return None if there are none.

    The parts are those of ``ImageSets/Main``, or folders with their names. Boxes are read as VOC defines them: xmin to
    xmax are pixels counted from 1, both included. Difficult objects become crowd boxes, which are ignored in training
    and evaluation as VOC ignores them.

    Raises:
        DataError: Files cannot be read. All problems are reported.
    """
    files = [path for path in files if path.suffix.lower() == ".xml" and _VOC.search(head_of(path))]
    if not files:
        return None
    problems = Problems()
    by_part: dict[str, list[Path]] = defaultdict(list)
    listed = _listed(folder, {path.stem for path in files})
    for path in files:
        part = listed.get(path.stem) if listed else part_of(path.parent, folder) or "train"
        if part is not None:
            by_part[part].append(path)
    images = _Images(folder)
    contents = {part: _read(by_part[part], folder, images, problems) for part in _PARTS if part in by_part}
    if problems:
        raise DataError(problems.shown())
    parts = corner_sources(contents, folder, box_format, first_pixel=1)
    if "train" not in parts:
        raise DataError(f"{folder}: {len(files):,} XML files, but none of the train part.")
    notes = _list_notes(listed, [path.stem for path in files])
    names = {entry["name"] for source in parts.values() for entry in (source.content or {})["categories"]}
    return DataSet(f"Pascal VOC, {len(files):,} XML files: parts {', '.join(parts)}; {len(names)} names", parts, notes)


def _list_notes(listed: Mapping[str, str], stems: Sequence[str]) -> tuple[str, ...]:
    if not listed:
        return ()
    spare, missing = sum(stem not in listed for stem in stems), sorted(set(listed) - set(stems))
    notes = []
    if spare:
        notes.append(f"{spare:,} XML files are in no list of {_LISTS} and are left out.")
    if missing:
        notes.append(f"{len(missing):,} names in the lists of {_LISTS} have no XML file and are left out; the first is "
                     f"{missing[0]}.")  # fmt: skip
    return tuple(notes)


def write_voc(parts: Mapping[str, ImageSet], files: Mapping[str, Sequence[str]], out: Path) -> list[str]:
    """Write ``Annotations`` and ``ImageSets/Main`` of images that lie in ``out/JPEGImages``.

    Args:
        parts: The images by part.
        files: The file names of the images of each part, without folders. Their stems are unique.
        out: The folder of the data set.

    Returns:
        Notes on what the format cannot hold: masks.
    """
    for part, images in parts.items():
        stems = []
        for image, name in zip(images, files[part], strict=True):
            root = Element("annotation")
            _add(root, {"folder": "JPEGImages", "filename": name})
            _add(SubElement(root, "size"), {"width": image.width, "height": image.height, "depth": 3})
            columns = (image.boxes.tolist(), image.labels.tolist(), image.crowd.tolist())
            for box, label, crowd in zip(*columns, strict=True):
                item = SubElement(root, "object")
                _add(item, {"name": images.names[label - 1], "difficult": int(crowd)})
                numbers = [f"{value:.4f}".rstrip("0").rstrip(".") for value in (box[0] + 1, box[1] + 1, *box[2:])]
                _add(SubElement(item, "bndbox"), dict(zip(_CORNERS, numbers, strict=True)))
            indent(root)
            stems.append(PurePosixPath(name).stem)
            write_text(out / "Annotations" / f"{stems[-1]}.xml", tostring(root, encoding="unicode") + "\n")
        write_text(out / _LISTS / f"{part}.txt", "".join(f"{stem}\n" for stem in stems))
    return ["Masks are left out: boxes are written."] if any(part.has_masks for part in parts.values()) else []


def _add(parent: Element, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        text = "".join(letter for letter in str(value) if letter >= " " and not "\ud800" <= letter <= "\udfff")
        SubElement(parent, key).text = text


def _listed(folder: Path, stems: Collection[str]) -> dict[str, str]:
    """Return the part of each stem in ``ImageSets/Main``; empty without such lists.

    Args:
        folder: The folder of the data set.
        stems: The stems of the XML files.
    """
    parts: dict[str, str] = {}
    for name in ("trainval", *_PARTS):
        path = folder / _LISTS / f"{name}.txt"
        if path.is_file():
            lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
            part = "train" if name == "trainval" else name
            parts |= dict.fromkeys(_stems([line.strip() for line in lines if line.strip()], stems), part)
    return parts


def _stems(lines: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the stem in each line of a list: the line, or the line without the 1, 0 or -1 behind it.

    Stems can have spaces and end in a number, so the reading is used that gives more of the known stems.
    """
    whole = [PurePosixPath(line).name for line in lines]
    without = [_FLAG.sub("", stem) for stem in whole]
    flagged = sum(stem in known for stem in without) > sum(stem in known for stem in whole)
    pairs = zip(without, whole, strict=True) if flagged else zip(whole, without, strict=True)
    return [second if second in known and first not in known else first for first, second in pairs]


class _Images:
    """The images of a data set by their name and stem."""

    def __init__(self, folder: Path) -> None:
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        for path in image_files(folder):
            for key in {path.name, path.stem}:
                self.by_name[key].append(path)

    def find(self, xml: Path, name: str) -> Path | None:
        """Return the image that an XML file names, or that has its stem; the nearest one if there are several."""
        last = PureWindowsPath(name).name  # both kinds of slashes
        for key in (last, xml.stem, PurePosixPath(last).stem):
            found = self.by_name.get(key)
            if found:
                shared = [len(os.path.commonpath([path.parent, xml.parent])) for path in found]
                return found[shared.index(max(shared))]
        return None


def _read(files: Sequence[Path], folder: Path, images: _Images, problems: Problems) -> CocoContent:
    content = CocoContent()
    for path in files:
        root = read_xml(path, problems)
        if root is None:
            continue
        image = images.find(path, root.findtext("filename") or "")
        if image is None:
            problems.add("images", f"{path}: its image {(root.findtext('filename') or path.stem)[:80]!r} is missing")
            continue
        width, height = (side_in(root.findtext(f"size/{key}")) for key in ("width", "height"))
        image_id = content.add_image(image.relative_to(folder).as_posix(), width, height)
        for place, item in enumerate(root.findall("object"), start=1):
            name = (item.findtext("name") or "").strip()
            corners = [number_in(item.findtext(f"bndbox/{key}")) for key in _CORNERS]
            if not name or not all(map(math.isfinite, corners)):
                problems.add("objects", f"{path}: object {place}: expected a name, and a bndbox with "
                             f"{', '.join(_CORNERS)} in pixels")  # fmt: skip
                continue
            content.add_box(image_id, name, corners, number_in(item.findtext("difficult")) == 1)
    return content
