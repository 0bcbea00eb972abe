"""Convert a data set to another format: ``ezsd convert``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from ezsd.data.formats.coco import coco_ground_truth, describe_part, select_boxes
from ezsd.data.formats.coco_json import IN_PIXELS, OF_CONVERT, read_annotations
from ezsd.data.formats.recognize import Source, open_dataset
from ezsd.data.formats.sources import check_box_format, open_source
from ezsd.data.formats.voc import write_voc
from ezsd.data.formats.yolo import write_yolo
from ezsd.data.samples import ImageSet, shared_notes
from ezsd.errors import ArtifactError, DataError
from ezsd.utils.files import write_text, written_whole
from ezsd.utils.progress import track

Format = Literal["coco", "yolo", "voc"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True)
class Converted:
    """The result of :func:`convert`: what was found in each part, and notes on what is not the same."""

    summary: list[str]
    notes: list[str]


def convert(source: Path, out: Path, to: Format, skip_bad: bool = False, box_format: str | None = None) -> Converted:
    """Copy a data set to a folder in another format. The original is not changed.

    The layouts are those of Roboflow (COCO: ``PART/_annotations.coco.json`` beside its images), Ultralytics (YOLO:
    ``data.yaml``, ``PART/images``, ``PART/labels``) and Pascal VOC (``Annotations``, ``JPEGImages``,
    ``ImageSets/Main``).

    Args:
        source: A data set in a format of :func:`ezsd.data.formats.recognize.open_dataset`.
        out: The folder to write, outside of the data set; it must not contain files.
        to: The format.
        skip_bad: Leave invalid images and boxes out.
        box_format: What the boxes are, one of ``BOX_FORMATS``, if they are not what the format says.

    Raises:
        DataError: The data set cannot be read, or has invalid images or boxes.
        RecipeError: The boxes of the format cannot be ``box_format``.
        ArtifactError: The folder contains files, is inside the data set, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(f"{out} already exists. Give a new folder.")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ArtifactError(f"{out} is inside the data set {source}, which would then have all images twice. Give a "
                            "folder outside of it.")  # fmt: skip
    dataset = open_dataset(source, box_format)
    parts = _read(dataset.parts, skip_bad, box_format)
    folders = {
        part: {"coco": out / part, "yolo": out / part / "images", "voc": out / "JPEGImages"}[to] for part in parts
    }
    taken: set[str] = set()  # stems are unique in VOC
    files = {
        part: _file_names(images, dataset.parts[part].images, to, taken if to == "voc" else set())
        for part, images in parts.items()
    }
    with track(sum(map(len, parts.values())), "Copying images") as advance:
        for part, images in parts.items():
            for image, name in zip(images, files[part], strict=True):
                with written_whole(folders[part] / name) as temporary:
                    shutil.copyfile(image.path, temporary)
                advance(1, "")
    notes = [
        *dataset.part_notes,
        *dataset.notes,
        *(f"{part}: {note}" for part, images in parts.items() for note in images.notes),
    ]
    others = {part: images for part, images in parts.items() if part != "train"}
    notes += [f"{part}: {note}" for part, images in others.items() for note in shared_notes(parts["train"], images)]
    writers = {"coco": _write_coco, "yolo": write_yolo, "voc": write_voc}
    notes += [*writers[to](parts, files, out), *_lvis_notes(dataset.parts)]
    summary = [f"found {dataset.description}", *(describe_part(part, images) for part, images in parts.items())]
    return Converted(summary, notes)


def _lvis_notes(sources: Mapping[str, Source]) -> list[str]:
    files = [source.annotations for source in sources.values() if source.annotations is not None]
    entries = [entry for file in files for entry in read_annotations(file).images if isinstance(entry, dict)]
    if not any("neg_category_ids" in entry for entry in entries):
        return []
    return ["What LVIS says of absent names (neg_category_ids, not_exhaustive_category_ids) and the frequency of names "
            "are not copied: evaluate with the original files."]  # fmt: skip


def _read(sources: Mapping[str, Source], skip_bad: bool, box_format: str | None) -> dict[str, ImageSet]:
    """Read all parts with the names of all of them."""
    opened = {name: open_source(source, Path(f"{name}.json"), box_format) for name, source in sources.items()}
    found = {name: select_boxes(part) for name, part in opened.items()}
    for reading in found.values():
        check_box_format(reading, box_format)
    names = tuple(dict.fromkeys(name for reading in found.values() for name in reading.images.names))
    if problems := [problem for reading in found.values() for problem in reading.problems(skip_bad)]:
        raise DataError(problems)
    return {name: select_boxes(part, names).images for name, part in opened.items()}


def _file_names(images: ImageSet, root: Path, to: Format, taken: set[str]) -> list[str]:
    """Return a file name for each image, which no other image has: with its folders, or without for VOC.

    For VOC and YOLO, which have one file of boxes for each stem, it has a stem of its own.
    """

    def key(path: PurePosixPath) -> str:
        return str(path if to == "coco" else path.with_suffix(""))

    names = []
    home = os.path.abspath(root)  # without "..", as the paths of the images
    for image in images:
        file = Path(os.path.abspath(image.path))
        name = file.relative_to(home).as_posix() if file.is_relative_to(home) else file.name
        path = PurePosixPath(name)
        if to == "voc":
            path = PurePosixPath(name.replace("/", "_") if path.stem in taken else path.name)
        free, number = path, 1
        while key(free) in taken:
            number += 1
            free = path.with_name(f"{path.stem}_{number}{path.suffix}")
        taken.add(key(free))
        names.append(str(free))
    return names


def _write_coco(parts: Mapping[str, ImageSet], files: Mapping[str, Sequence[str]], out: Path) -> list[str]:
    for part, images in parts.items():
        content = {"info": OF_CONVERT | IN_PIXELS, **coco_ground_truth(images)}
        for entry, name in zip(content["images"], files[part], strict=True):
            entry["file_name"] = name
        write_text(out / part / "_annotations.coco.json", json.dumps(content))
    return []
