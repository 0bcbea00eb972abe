"""Pascal VOC data sets: an XML file for each image."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ezsd.data.formats.box_formats import BOX_FORMATS
from ezsd.data.formats.coco_json import flag_of
from ezsd.data.formats.content import CocoContent
from ezsd.data.formats.corners import around_rotated, corner_sources
from ezsd.data.formats.file_heads import head_of
from ezsd.data.formats.problems import Problems
from ezsd.data.formats.recognize import DataSet, listed_parts, part_of
from ezsd.data.formats.voc_images import VocImages, unlabelled_notes
from ezsd.data.formats.voc_lists import LISTS, list_notes, read_lists
from ezsd.data.formats.xml_files import encoding_problem, number_in, read_xml, side_in
from ezsd.data.samples import ImageSet
from ezsd.errors import DataError
from ezsd.utils.files import write_text
from ezsd.utils.format import counted, plural

_VOC = re.compile("<annotation(?!s)", re.IGNORECASE)  # annotations are those of CVAT
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_PARTS = ("train", "val", "test")


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
    listed = read_lists(folder, files, problems)
    for path in files:
        part = listed.parts.get(path) if listed.used else part_of(path.parent, folder) or "train"
        if part is not None:
            by_part[part].append(path)
    images = VocImages(folder)
    contents = {part: _read(by_part[part], folder, images, problems) for part in _PARTS if part in by_part}
    if problems:
        raise DataError(problems.shown())
    parts = corner_sources(contents, folder, box_format, first_pixel=1, formats=BOX_FORMATS)
    if not parts:
        raise DataError(f"{folder}: {counted(len(files), 'XML file')}, but none of them is in a list of {LISTS}.")
    used = [name for content in contents.values() for name in content.file_names]
    without = () if listed.used else unlabelled_notes(images, folder, used, "XML")  # lists leave images out on purpose
    notes = (*list_notes(listed, len(files)), *_rename_notes(images.renamed), *without)
    names = {entry["name"] for source in parts.values() for entry in (source.content or {})["categories"]}
    what = f"Pascal VOC, {counted(len(files), 'XML file')}: {listed_parts(parts)}; {counted(len(names), 'name')}"
    return DataSet(what, parts, notes)


def _rename_notes(renamed: Sequence[PurePath]) -> tuple[str, ...]:
    if not renamed:
        return ()
    return (f"{counted(len(renamed), 'XML file names', 'XML files name')} another image than the one with their own "
            f"name, which is used; the first is {renamed[0]}.",)  # fmt: skip


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
        write_text(out / LISTS / f"{part}.txt", "".join(f"{stem}\n" for stem in stems))
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
    return [f"{counted(len(changed), 'name has', 'names have')} spaces around them or characters that XML has not, and "
            f"{plural(len(changed), 'is', 'are')} written in another way: "
            f"{', '.join(changed[:10])}{' ...' if len(changed) > 10 else ''}."]  # fmt: skip


def _add(parent: Element, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        SubElement(parent, key).text = _text(str(value))


def _text(value: str) -> str:
    """Return a text without the characters that XML has not."""
    return re.sub("[\0-\x1f\ud800-\udfff\ufffe\uffff]", "", value)


def _image_of(xml: Path, root: Element, folder: Path, images: VocImages, problems: Problems) -> PurePath | None:
    """Return the image of an XML file; None if there is none, or not one of its own, which is added to the problems."""
    name = root.findtext("filename") or ""
    found = images.find(xml.relative_to(folder), name, root.findtext("folder") or "")
    if not found:
        cause = encoding_problem(name)
        problems.add("images", f"{xml}: its image {cause or f'{(name or xml.stem)[:80]!r} is missing'}")
    elif len(found) > 1:
        problems.add("images", f"{xml}: its image could be {folder / found[0]} or {folder / found[1]}")
    elif (first := images.xml_files.setdefault(found[0], xml)) != xml:
        problems.add("XML files of one image", f"{xml} and {first} are both XML files of the image {folder / found[0]}")
    else:
        return found[0]
    return None


def _read(files: Sequence[Path], folder: Path, images: VocImages, problems: Problems) -> CocoContent:
    content = CocoContent()
    for path in files:
        root = read_xml(path, problems)
        image = None if root is None else _image_of(path, root, folder, images, problems)
        if root is None or image is None:
            continue
        width, height = (side_in(root.findtext(f"size/{key}")) for key in ("width", "height"))
        image_id = content.add_image(image.as_posix(), width, height, path.relative_to(folder).as_posix())
        for place, item in enumerate(root.findall("object"), start=1):
            name = (item.findtext("name") or "").strip()
            boxes, rotated = _boxes_of(item)
            if not name or not boxes or not all(math.isfinite(value) for box in boxes for value in box):
                text = f"expected a name, and a bndbox with {', '.join(_CORNERS)} in pixels"
                problems.add("objects", text, f"{path}, object {place}")
                continue
            if cause := encoding_problem(name):
                problems.add("names", cause, f"{path}, object {place}")
                continue
            difficult = flag_of(item.findtext("difficult")) == 1
            for box in boxes:
                content.add_box(image_id, name, box, difficult, place=f"object {place}", around=rotated)
    return content


def _boxes_of(item: Element) -> tuple[list[Sequence[float]], bool]:
    """Return the corners of an object, and whether they are those around a rotated box of roLabelImg."""
    boxes: list[Sequence[float]] = [
        [number_in(box.findtext(corner)) for corner in _CORNERS] for box in item.findall("bndbox")
    ]
    if boxes:
        return boxes, False
    for box in item.findall("robndbox"):
        x1, y1, *last = around_rotated(*(number_in(box.findtext(key)) for key in ("cx", "cy", "w", "h", "angle")))
        boxes.append((x1 + 1, y1 + 1, *last))  # pixels are counted from 1
    return boxes, True
