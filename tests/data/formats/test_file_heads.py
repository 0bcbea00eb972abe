"""Data sets in formats that are not read are named, with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ezsd.data.formats.recognize import open_dataset
from ezsd.errors import DataError
from tiny import make_tiny_coco

_REGION = {"shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}, "region_attributes": {}}
_BOX = {"x": 1, "y": 2, "width": 3, "height": 4}
_JSON: dict[str, tuple[Any, str]] = {
    "VIA project": ({"_via_settings": {}, "_via_img_metadata": {"a": {"filename": "a.png"}}}, "VGG Image Annotator"),
    "VIA": ({"a": {"filename": "a.png", "regions": [_REGION]}}, "VGG Image Annotator"),
    "VIA 1": ({"a": {"filename": "a.png", "regions": {"0": _REGION}}}, "VGG Image Annotator"),
    "VoTT": ({"asset": {"name": "a.png"}, "regions": [{"boundingBox": {"left": 1}}]}, "VoTT"),
    "Label Studio": ([{"id": 1, "annotations": [{"result": [{"from_name": "label"}]}]}], "Label Studio"),
    "Supervisely": ({"size": {"height": 20}, "objects": [{"classTitle": "cat"}]}, "Supervisely"),
    "Labelbox": ([{"data_row": {"id": 1}, "projects": {}}], "Labelbox"),
    "Create ML": ([{"image": "a.png", "annotations": [{"label": "cat", "coordinates": _BOX}]}], "Create ML"),
    "Datumaro": ({"categories": {"label": {"labels": []}}, "items": [{"id": "a", "annotations": []}]}, "Datumaro"),
    "BDD": ([{"name": "a.png", "labels": [{"category": "cat", "box2d": {"x1": 1}}]}], "BDD100K"),
    "Darwin": ({"image": {}, "annotations": [{"bounding_box": {"h": 1}, "name": "cat"}]}, "V7 Darwin"),
    "detections": ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "a list of detections"),
}
_EXPORT = "which is not read. Export the data set from its tool as COCO, YOLO or Pascal VOC."


def _set(folder: Path, name: str, text: str) -> Path:
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (40, 20), (90, 90, 90)).save(folder / "images" / "a.png")
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("kind", _JSON)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("given", [".", "data.json"])
def test_the_own_json_of_tools_is_named(tmp_path: Path, kind: str, indent: int | None, given: str) -> None:
    content, expected = _JSON[kind]
    _set(tmp_path / "set", "data.json", json.dumps(content, indent=indent))
    with pytest.raises(DataError) as raised:
        open_dataset(tmp_path / "set" / given)
    assert str(raised.value).startswith(f"{tmp_path}/set/data.json is ") and expected in str(raised.value)
    assert str(raised.value).endswith(_EXPORT)


@pytest.mark.parametrize("name, expected", [
    ("boxes.csv", "a table (CSV)"), ("boxes.TSV", "a table (TSV)"), ("metadata.jsonl", "JSON lines"),
    ("boxes.json", "JSON lines"), ("train.parquet", "Parquet"), ("train.tfrecord", "TFRecord"),
])  # fmt: skip
@pytest.mark.parametrize("given", [".", None])
def test_tables_and_lines_are_named(tmp_path: Path, name: str, expected: str, given: str | None) -> None:
    _set(tmp_path / "set", name, '{"image": "a.png", "boxes": []}\n{"image": "b.png", "boxes": []}\n')
    with pytest.raises(DataError) as raised:
        open_dataset(tmp_path / "set" / (given or name))
    assert str(raised.value) == f"{tmp_path}/set/{name} is {expected}, {_EXPORT}"


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", "set.7z", "set.ZIP"])
@pytest.mark.parametrize("given", [".", None])
def test_an_archive_must_be_unpacked(tmp_path: Path, name: str, given: str | None) -> None:
    _set(tmp_path / "set", name, "")
    with pytest.raises(DataError, match=r"is an archive, which is not read\. Unpack it, and give the folder\."):
        open_dataset(tmp_path / "set" / (given or name))


def test_an_archive_or_a_table_beside_a_data_set_that_is_read_does_not_matter(tmp_path: Path) -> None:
    tiny = make_tiny_coco(tmp_path)
    for name in ("tiny.zip", "results.csv"):
        (tiny.annotations.parent / name).write_text("")
    assert open_dataset(tiny.annotations.parent).description.startswith("COCO JSON")


@pytest.mark.parametrize("name, text", [
    ("labels.json", '{"boxes": [1]}'), ("labels.xml", "<boxes/>"),
    ("images/a.txt", "Car 0.00 0 -1.57 10 10 50 50 1 1 1 1 1 1 1"), ("a.txt", "1 2 3 4 5 6 7 8 plane 0"),
])  # fmt: skip
def test_a_file_in_no_format_is_named(tmp_path: Path, name: str, text: str) -> None:
    _set(tmp_path / "set", name, text)
    with pytest.raises(DataError, match=rf"has 1 image, but no annotations.* {tmp_path}/set/{name} is in none of"):
        open_dataset(tmp_path / "set")
