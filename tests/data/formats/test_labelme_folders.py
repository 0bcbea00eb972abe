"""LabelMe files in a folder of their own have the images that they name, or those in folders like their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ezsd.data.formats.recognize import open_dataset
from ezsd.errors import DataError


def _set(folder: Path, files: dict[str, str], images: str) -> Path:
    """Write JSON files with the path of their image, and images."""
    for name in images.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (90, 90, 90)).save(folder / name)
    for name, image in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shape = {"label": "cat", "points": [[10, 5], [30, 15]], "shape_type": "rectangle"}
        (folder / name).write_text(json.dumps({"imagePath": image, "shapes": [shape]}))
    return folder


@pytest.mark.parametrize(
    "files, images, expected",
    [
        ({"labels/a.json": "../images/a.png"}, "images/a.png", "images/a.png"),
        ({"labels/a.json": "..\\images\\a.png"}, "images/a.png", "images/a.png"),
        ({"annotations/a.json": "a.png"}, "images/a.png", "images/a.png"),
        ({"labels/a.json": "/home/me/a.png"}, "images/a.png", "images/a.png"),
        ({"labels/a.json": "C:\\me\\a.jpg"}, "images/a.png", "images/a.png"),
        ({"labels/a.json": "../images/b.png"}, "images/a.png images/b.png", "images/b.png"),
        ({"labels/train/a.json": "a.png"}, "images/train/a.png images/val/a.png", "images/train/a.png"),
        ({"labels/a.json": "../raw/a.png"}, "images/a.png raw/a.png", "raw/a.png"),
        ({"labels/a.json": "a.png"}, "labels/a.png images/a.png", "labels/a.png"),
    ],
)
def test_the_image_of_a_labelme_file(tmp_path: Path, files: dict[str, str], images: str, expected: str) -> None:
    content = open_dataset(_set(tmp_path, files, images)).parts["train"].content or {}
    assert [entry["file_name"] for entry in content["images"]] == [expected]


def test_an_image_that_is_unclear_or_outside_of_the_data_set_is_refused(tmp_path: Path) -> None:
    _set(tmp_path, {"one/labels/a.json": "../../outside.png"}, "outside.png one/images/b.png")
    with pytest.raises(
        DataError, match=r"a\.json: its image '\.\./\.\./outside\.png' is missing in .*one\. Give a folder"
    ):
        open_dataset(tmp_path / "one")
    _set(tmp_path / "two", {"labels/a.json": "a.png"}, "one/a.png two/a.png")
    with pytest.raises(DataError, match=r"a\.json: its image could be .*one/a\.png or .*two/a\.png"):
        open_dataset(tmp_path / "two")


@pytest.mark.parametrize("content", [b"", b"\0" * 100], ids=["empty", "zeros"])
def test_empty_files_are_noted(tmp_path: Path, content: bytes) -> None:
    _set(tmp_path, {"a.json": "a.png", "b.json": "b.png"}, "a.png b.png")
    assert not open_dataset(tmp_path).notes
    (tmp_path / "b.json").write_bytes(content)
    _, note = open_dataset(tmp_path).notes
    assert note.startswith(f"1 annotation file is empty and not read (the first is {tmp_path}/b.json)")


def test_images_without_a_json_file_are_counted(tmp_path: Path) -> None:
    _set(tmp_path, {"a.json": "a.png"}, "a.png b.png c.png")
    (note,) = open_dataset(tmp_path).notes
    assert note.startswith("2 of 3 images have no JSON file and are not used") and str(tmp_path / "b.png") in note
