"""Detections as files: JSON, JSON lines, CSV, COCO, YOLO, and pre-annotations for Label Studio and CVAT. No torch."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

import numpy as np
import supervision as sv
import yaml

from ezsd._version import __version__
from ezsd.errors import ArtifactError, DataError
from ezsd.inference.masks import each_mask
from ezsd.inference.sources import Frame
from ezsd.inference.view import names_of, other_names_of, scores_of
from ezsd.utils.files import write_json, write_text, written_whole
from ezsd.utils.format import counted

_LABEL_FILES = {
    "coco": ("coco.json",),
    "yolo": ("data.yaml", "labels"),
    "label-studio": ("label_studio.json", "label_config.xml"),
    "cvat": ("cvat.xml",),
}
LOCAL_FILES = "/data/local-files/?d="  # Label Studio's address of files on its own disk


@dataclass(frozen=True)
class Labeled:
    """The detections of one image, as plain values.

    Attributes:
        name: What the image is called in messages.
        file_name: A relative path with slashes.
        width: In pixels.
        height: In pixels.
        detections: See :func:`detections_json`.
        path: The image file; None if it is not a local file.
        frame: The number of the frame in its video; None for images.
        seconds: The time of the frame in its video; None for images.
    """

    name: str
    file_name: str
    width: int
    height: int
    detections: tuple[dict[str, Any], ...]
    path: Path | None = None
    frame: int | None = None
    seconds: float | None = None


def labeled(frame: Frame, detections: sv.Detections) -> Labeled:
    """Return the detections of a frame as plain values."""
    height, width = frame.pixels.shape[:2]
    place = (frame.number, frame.seconds) if frame.video else (None, None)
    found = tuple(detections_json(detections))
    return Labeled(frame.name, frame.file_name, int(width), int(height), found, frame.path, *place)


def detections_json(detections: sv.Detections) -> list[dict[str, Any]]:
    """Convert detections to JSON values.

    Returns:
        For each detection ``name``, ``score`` and ``box`` (xyxy, absolute pixels); where there are any, ``mask`` (COCO
        RLE), ``track`` (its number in a video) and ``other_names`` (names and scores of the same object).
    """
    count = len(detections)
    masks = [None] * count if detections.mask is None else each_mask(detections.mask)
    tracks = [-1] * count if detections.tracker_id is None else detections.tracker_id
    columns = zip(
        names_of(detections), scores_of(detections), detections.xyxy, masks, tracks, other_names_of(detections),
        strict=True,
    )  # fmt: skip
    return [
        {"name": str(name), "score": round(float(score), 4), "box": [round(float(side), 2) for side in box]}
        | ({} if mask is None else {"mask": encode_mask(mask)})
        | ({} if track < 0 else {"track": int(track)})
        | ({"other_names": [{"name": each, "score": round(value, 4)} for each, value in others]} if others else {})
        for name, score, box, mask, track, others in columns
    ]


def encode_mask(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Encode a mask [H, W] as a compressed COCO RLE that can be written as JSON."""
    return {
        "size": [int(side) for side in mask.shape],
        "counts": sv.mask_to_rle(mask.astype(bool, copy=False), compressed=True),
    }


def image_json(image: Labeled) -> dict[str, Any]:
    """Return an image and its detections as JSON values."""
    place = {} if image.frame is None else {"frame": image.frame, "seconds": image.seconds}
    size = {"width": image.width, "height": image.height}
    return {"image": image.name, "file_name": image.file_name, **size, **place, "detections": list(image.detections)}


def write_json_lines(folder: Path, images: Sequence[Labeled], names: Sequence[str]) -> Path:
    """Write ``detections.jsonl``, one image a line."""
    path = folder / "detections.jsonl"
    write_text(path, "".join(json.dumps(image_json(image), ensure_ascii=False) + "\n" for image in images))
    return path


def write_csv(folder: Path, images: Sequence[Labeled], names: Sequence[str]) -> Path:
    """Write ``detections.csv``, one detection a line; boxes are x1, y1, x2, y2 in pixels."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "width", "height", "frame", "seconds", "track", "name", "score", "x1", "y1", "x2", "y2"])
    for image in images:
        for found in image.detections:
            place = [image.name, image.width, image.height, image.frame, image.seconds, found.get("track")]
            table.writerow([*place, found["name"], found["score"], *found["box"]])
    path = folder / "detections.csv"
    write_text(path, text.getvalue())
    return path


def write_coco(folder: Path, images: Sequence[Labeled], names: Sequence[str]) -> Path:
    """Write ``coco.json``: a COCO file with images, annotations (with ``score``) and categories; ids start at 1.

    CVAT, FiftyOne and Roboflow import it.
    """
    path = folder / "coco.json"
    write_json(path, coco(images, names))
    return path


def write_coco_results(folder: Path, images: Sequence[Labeled], names: Sequence[str]) -> Path:
    """Write ``coco_results.json``: the detections as a list of COCO results, with the ids of ``coco.json``."""
    path = folder / "coco_results.json"
    keys = ("image_id", "category_id", "bbox", "score", "segmentation")
    annotations = coco(images, names)["annotations"]
    write_json(path, [{key: entry[key] for key in keys if key in entry} for entry in annotations])
    return path


def coco(images: Sequence[Labeled], names: Sequence[str]) -> dict[str, Any]:
    """Return detections as the content of a COCO file."""
    ids = {name: index for index, name in enumerate(names, start=1)}
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, start=1):
        for found in image.detections:
            x1, y1, x2, y2 = found["box"]
            box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": ids[found["name"]], "bbox": box,
                "area": _area(found, box), "iscrowd": 0, "segmentation": found.get("mask", []), "score": found["score"],
            })  # fmt: skip
    return {
        "info": {"description": f"detections of ezsd {__version__}"},
        "images": [
            {"id": image_id, "file_name": image.file_name, "width": image.width, "height": image.height}
            for image_id, image in enumerate(images, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": index, "name": name, "supercategory": ""} for name, index in ids.items()],
    }


def _area(found: dict[str, Any], box: Sequence[float]) -> float:
    if mask := found.get("mask"):
        return float(sv.rle_to_mask(mask["counts"], tuple(mask["size"][::-1])).sum())
    return round(box[2] * box[3], 2)


def write_yolo(folder: Path, images: Sequence[Labeled], names: Sequence[str]) -> Path:
    """Write a YOLO text file for each image below ``labels``, and ``data.yaml``.

    A line is ``class center_x center_y width height``, as fractions of the image; class 0 is the first name.

    Raises:
        DataError: Two images would share a file.
    """
    index = {name: place for place, name in enumerate(names)}
    check_distinct((image.file_name for image in images), "yolo")
    for image in images:
        lines = [_yolo_line(index[found["name"]], found["box"], image) for found in image.detections]
        target = folder / "labels" / PurePosixPath(image.file_name).with_suffix(".txt")
        write_text(target, "".join(f"{line}\n" for line in lines))
    path = folder / "data.yaml"
    # No "path": Ultralytics then takes the folder of this file, and with "." the working directory.
    content = {"train": "images", "val": "images", "nc": len(names), "names": list(names)}
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return path


def _yolo_line(label: int, box: Sequence[float], image: Labeled) -> str:
    x1, y1, x2, y2 = box
    values = ((x1 + x2) / 2 / image.width, (y1 + y2) / 2 / image.height, (x2 - x1) / image.width,
              (y2 - y1) / image.height)  # fmt: skip
    return " ".join([str(label), *(f"{value:.6f}" for value in values)])


def write_label_studio(
    folder: Path, images: Sequence[Labeled], names: Sequence[str], image_url: str = LOCAL_FILES
) -> Path:
    """Write ``label_studio.json``, tasks with predictions, and ``label_config.xml``, the labeling setup of the project.

    Args:
        folder: The folder to write to.
        images: The detections.
        names: The vocabulary.
        image_url: The start of the address of images; the quoted ``file_name`` is added.
    """
    path = folder / "label_studio.json"
    write_json(path, [_label_studio_task(image, image_url) for image in images])
    view = ET.Element("View")
    ET.SubElement(view, "Image", name="image", value="$image")
    labels = ET.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in names:
        ET.SubElement(labels, "Label", value=name)
    write_text(folder / "label_config.xml", _xml(view))
    return path


def _label_studio_task(image: Labeled, image_url: str) -> dict[str, Any]:
    results = [
        {
            "id": f"box{place}",
            "type": "rectanglelabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": image.width,
            "original_height": image.height,
            "image_rotation": 0,
            "score": found["score"],
            "value": {**_percent(found["box"], image), "rotation": 0, "rectanglelabels": [found["name"]]},
        }
        for place, found in enumerate(image.detections)
    ]
    scores = [found["score"] for found in image.detections]
    score = round(sum(scores) / len(scores), 4) if scores else 0.0
    prediction = {"model_version": f"ezsd {__version__}", "score": score, "result": results}
    return {"data": {"image": image_url + quote(image.file_name)}, "predictions": [prediction]}


def _percent(box: Sequence[float], image: Labeled) -> dict[str, float]:
    x1, y1, x2, y2 = box
    return {
        "x": 100 * x1 / image.width,
        "y": 100 * y1 / image.height,
        "width": 100 * (x2 - x1) / image.width,
        "height": 100 * (y2 - y1) / image.height,
    }


def write_cvat(folder: Path, images: Sequence[Labeled], names: Sequence[str]) -> Path:
    """Write ``cvat.xml`` in the format "CVAT for images 1.1"; boxes have the source "auto"."""
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    task = ET.SubElement(ET.SubElement(root, "meta"), "task")
    for key, value in (("name", "ezsd"), ("size", str(len(images))), ("mode", "annotation")):
        ET.SubElement(task, key).text = value
    labels = ET.SubElement(task, "labels")
    for name in names:
        label = ET.SubElement(labels, "label")
        ET.SubElement(label, "name").text = name
        ET.SubElement(label, "type").text = "rectangle"
        ET.SubElement(label, "attributes")
    for index, image in enumerate(images):
        size = {"width": str(image.width), "height": str(image.height)}
        node = ET.SubElement(root, "image", {"id": str(index), "name": image.file_name, **size})
        for found in image.detections:
            corners = {key: f"{side:.2f}" for key, side in zip(("xtl", "ytl", "xbr", "ybr"), found["box"], strict=True)}
            about = {"label": found["name"], "source": "auto", "occluded": "0", "z_order": "0"}
            ET.SubElement(node, "box", {**about, **corners})
    path = folder / "cvat.xml"
    write_text(path, _xml(root))
    return path


def _xml(root: ET.Element) -> str:
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def check_distinct(file_names: Iterable[str], target: str) -> None:
    """Raise DataError if the labels of two images would share a name in a format; those of YOLO have no suffix."""
    paths = map(PurePosixPath, file_names)
    names = [str(path.with_suffix("") if target == "yolo" else path) for path in paths]
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise DataError(
            f"{counted(len(repeated), 'name belongs', 'names belong')} to several images, such as {repeated[0]}. Give "
            "the folder that contains all images as the source, so that their names include their folders, or rename "
            "them."
        )


def check_no_labels(folder: Path, formats: Iterable[str]) -> None:
    """Raise ArtifactError if the folder has label files of the formats, because people may have corrected them."""
    paths = [folder / name for key in formats for name in _LABEL_FILES.get(key, ())]
    if existing := [str(path) for path in paths if path.exists()]:
        raise ArtifactError(
            f"{', '.join(existing)} already exists, and may have been corrected. Use another --out, or replace it with "
            "--overwrite."
        )


def link_images(folder: Path, images: Iterable[Labeled]) -> None:
    """Put the images below ``images`` of a folder: as hard links where possible, else as copies.

    Raises:
        DataError: An image is not a local file.
        ArtifactError: The folder cannot be written.
    """
    for image in images:
        if image.path is None:
            raise DataError(f"{image.name} is not an image file.")
        target = folder / "images" / PurePosixPath(image.file_name)
        if target.exists() and target.samefile(image.path):
            continue
        with written_whole(target) as temporary:
            with suppress(OSError):
                os.link(image.path, temporary)
            if not temporary.exists():
                shutil.copyfile(image.path, temporary)


Write = Callable[[Path, Sequence[Labeled], Sequence[str]], Path]
FORMATS: dict[str, Write] = {
    "jsonl": write_json_lines,
    "csv": write_csv,
    "coco": write_coco,
    "coco-results": write_coco_results,
    "yolo": write_yolo,
    "label-studio": write_label_studio,
    "cvat": write_cvat,
}
