"""Tests of coco2k, built from a generated val2017 folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ezsd.data.formats.coco import load_images
from ezsd.errors import DataError
from ezsd.recipe import Part
from make_coco2k import LONG_SIDE, make_coco2k

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "make_coco2k.py"
IMAGES = {"train": [5, 30], "val": [12]}
SIZES = {5: (640, 427), 9: (500, 375), 12: (320, 240), 21: (640, 480), 30: (240, 320)}


@pytest.fixture
def official(tmp_path: Path) -> tuple[Path, Path]:
    """Return image folder and annotation file; images 9 (no person) and 21 (not in the set) are extra."""
    folder = tmp_path / "val2017"
    folder.mkdir()
    numbers = np.random.default_rng(0)
    for key, (width, height) in SIZES.items():
        pixels = numbers.integers(0, 255, (height // 20, width // 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / f"{key:012d}.jpg")

    def row(key: int, image_id: int, category_id: int, bbox: list[float], iscrowd: int = 0) -> dict[str, Any]:
        return {"id": key, "image_id": image_id, "category_id": category_id, "bbox": bbox, "iscrowd": iscrowd,
                "area": 10.5, "segmentation": [[1.0, 2.0, 3.0, 2.0, 3.0, 4.0]]}  # fmt: skip

    content = {
        "images": [
            {"id": key, "file_name": f"{key:012d}.jpg", "width": width, "height": height, "coco_url": "http://"}
            for key, (width, height) in reversed(SIZES.items())
        ],
        "annotations": [
            row(901, 30, 1, [0.0, 10.0, 100.2, 200.7]),
            row(17, 5, 64, [236.98, 142.51, 24.7, 69.5]),
            row(88, 21, 1, [10.0, 10.0, 50.0, 50.0]),
            row(3, 5, 1, [7.03, 167.76, 149.32, 94.87]),
            row(55, 9, 64, [10.0, 10.0, 50.0, 50.0]),
            row(11, 12, 1, [8.0, 16.0, 160.0, 80.0]),
            row(12, 12, 64, [20.1, 30.2, 0.5, 40.0]),
            row(900100000012, 12, 1, [0, 0, 320, 240], iscrowd=1),
        ],
        "categories": [
            {"supercategory": "person", "id": 1, "name": "person"},
            {"supercategory": "furniture", "id": 64, "name": "potted plant"},
        ],
    }
    annotations = tmp_path / "instances_val2017.json"
    annotations.write_text(json.dumps(content))
    return folder, annotations


def test_boxes_are_rounded_to_integer_pixels_then_scaled(official: tuple[Path, Path], tmp_path: Path) -> None:
    make_coco2k(IMAGES, *official, tmp_path / "out")

    train = json.loads((tmp_path / "out/instances_train.json").read_text())
    val = json.loads((tmp_path / "out/instances_val.json").read_text())
    assert [(row["id"], row["width"], row["height"]) for row in train["images"]] == [(5, 384, 256), (30, 288, 384)]
    assert train["annotations"] == [
        {"id": 1, "image_id": 5, "category_id": 64, "bbox": [141.6, 85.1, 15.0, 42.0], "area": 630.0, "iscrowd": 0},
        {"id": 2, "image_id": 5, "category_id": 1, "bbox": [4.2, 100.1, 89.4, 57.0], "area": 5095.8, "iscrowd": 0},
        {"id": 6, "image_id": 30, "category_id": 1, "bbox": [0.0, 12.0, 120.0, 240.0], "area": 28800.0, "iscrowd": 0},
    ]
    # The box smaller than a pixel has no id; image 21 uses id 5; the crowd is a plain box.
    assert val["annotations"] == [
        {"id": 3, "image_id": 12, "category_id": 1, "bbox": [9.6, 19.2, 192.0, 96.0], "area": 18432.0, "iscrowd": 0},
        {"id": 4, "image_id": 12, "category_id": 1, "bbox": [0.0, 0.0, 384.0, 288.0], "area": 110592.0, "iscrowd": 0},
    ]
    assert val["categories"] == train["categories"] and len(val["categories"]) == 2
    assert "val part" in val["info"]["description"]


def test_data_set_loads_and_images_match_the_originals(official: tuple[Path, Path], tmp_path: Path) -> None:
    make_coco2k(IMAGES, *official, tmp_path / "out")

    part = Part(images=tmp_path / "out/images", annotations=tmp_path / "out/instances_train.json")
    images = load_images(part, ("person",), required=("person",))
    assert [image.image_id for image in images] == [5, 30]
    assert len(list((tmp_path / "out/images").iterdir())) == 3
    for image in images:
        small = Image.open(image.path)
        before = Image.open(official[0] / image.path.name).resize(small.size)
        assert np.abs(np.asarray(small, dtype=float) - np.asarray(before, dtype=float)).mean() < 4


def test_existing_data_set_is_not_changed(official: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/instances_val.json").write_text("mine")
    with pytest.raises(DataError, match="instances_val.json already exists"):
        make_coco2k(IMAGES, *official, tmp_path / "out")
    assert (tmp_path / "out/instances_val.json").read_text() == "mine"


def test_wrong_input_files_raise_data_error(official: tuple[Path, Path], tmp_path: Path) -> None:
    folder, annotations = official
    with pytest.raises(DataError, match="lacks 1 images of coco2k, for example image id 77"):
        make_coco2k({"train": [5, 77]}, folder, annotations, tmp_path / "out")
    with pytest.raises(DataError, match="cannot be read"):
        make_coco2k(IMAGES, folder, tmp_path / "none.json", tmp_path / "out")
    Image.new("RGB", (30, 30)).save(folder / "000000000012.jpg")
    with pytest.raises(DataError, match=r"000000000012\.jpg does not have the size"):
        make_coco2k(IMAGES, folder, annotations, tmp_path / "out")
    (folder / "000000000005.jpg").unlink()
    with pytest.raises(DataError, match=r"000000000005\.jpg cannot be read"):
        make_coco2k(IMAGES, folder, annotations, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.json"))


def test_command_exits_with_2_and_one_message(official: tuple[Path, Path], tmp_path: Path) -> None:
    folder, annotations = official
    command = [sys.executable, str(SCRIPT), "--val2017", str(folder), "--annotations", str(annotations)]
    ended = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "lacks 1989 images" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.real_data
def test_image_list_matches_the_data_set(shared_data: Path) -> None:
    images = json.loads(SCRIPT.with_name("coco2k_images.json").read_text())
    assert {part: len(ids) for part, ids in images.items()} == {"train": 1568, "val": 421}
    for part, ids in images.items():
        content = json.loads((shared_data / "coco2k" / f"instances_{part}.json").read_text())
        assert ids == [entry["id"] for entry in content["images"]]
        assert all(max(entry["width"], entry["height"]) == LONG_SIDE for entry in content["images"])
