"""Tests of detection in image files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ezsd.commands.detect import detect_files
from ezsd.errors import ArtifactError, DataError, RecipeError
from tiny import SPLIT, make_tiny_coco
from tiny_run import make_model_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("run") / "train" / "model")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(make_tiny_coco(tmp_path_factory.mktemp("data")).images.iterdir())


def test_each_image_has_a_drawing_and_detections(model: Path, images: list[Path], tmp_path: Path) -> None:
    path = detect_files(model, images, "circle, bar", 0.0, tmp_path / "out")
    written = json.loads(path.read_text())
    assert written["vocabulary"] == ["circle", "bar"]
    assert [entry["image"] for entry in written["images"]] == list(map(str, images))
    assert {found["name"] for entry in written["images"] for found in entry["detections"]} == {"circle", "bar"}
    for entry in written["images"]:
        with Image.open(tmp_path / "out" / entry["drawn"]) as drawn:
            drawn.load()


def test_run_folder_gives_its_model_and_names(model: Path, images: list[Path], tmp_path: Path) -> None:
    path = detect_files(model.parents[1], images[:1], None, 0.5, tmp_path)
    assert json.loads(path.read_text())["vocabulary"] == list(SPLIT.names)


def test_broken_images_are_reported_and_the_others_processed(model: Path, images: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("not an image")
    missing = tmp_path / "missing.jpg"
    with pytest.raises(DataError) as caught:
        detect_files(model, [broken, images[0], missing, images[1]], "circle", 0.5, tmp_path / "out")
    assert str(broken) in str(caught.value)
    assert str(missing) in str(caught.value)
    written = json.loads((tmp_path / "out/detections.json").read_text())
    assert [entry["image"] for entry in written["images"]] == [str(images[0]), str(images[1])]


def test_images_and_drawings_with_the_same_name_are_not_replaced(
    model: Path, images: list[Path], tmp_path: Path
) -> None:
    copies = [tmp_path / folder / "cat.jpg" for folder in ("a", "b")]
    for image in copies:
        image.parent.mkdir()
        image.write_bytes(images[0].read_bytes())
    detect_files(model, copies, "circle", 0.5, copies[0].parent)
    assert copies[0].read_bytes() == images[0].read_bytes()
    assert len(list(copies[0].parent.glob("*.jpg"))) == 3


def test_missing_model_and_empty_vocabulary_raise_errors(model: Path, images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing"):
        detect_files(tmp_path, images, "circle", 0.5, tmp_path)
    with pytest.raises(RecipeError, match="vocabulary"):
        detect_files(model, images, " , ", 0.5, tmp_path)
