"""Pre-annotations: each format follows the documented schema of its tool, and is read back without loss."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import supervision as sv
import yaml
from pycocotools.coco import COCO
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from typer.testing import CliRunner, Result

from ezsd.cli import app
from ezsd.data.formats.coco import load_images
from ezsd.data.formats.recognize import Source, open_dataset
from ezsd.inference.detector import Detector
from ezsd.inference.video import video_writer
from ezsd.recipe import Part
from tiny import SIZES, SPLIT, make_tiny_coco
from tiny_run import make_model_of_run
from tiny_teacher import TEACHER


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_of_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_tiny_coco(tmp_path_factory.mktemp("data")).images
    (root / "more images").mkdir()
    (root / "000004.jpg").rename(root / "more images" / "000004.jpg")
    return root


def _label(*arguments: Any) -> Result:
    result = CliRunner().invoke(app, ["label", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def expected(model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The detections of each file name, as ezsd detect writes them."""
    out = tmp_path_factory.mktemp("expected")
    arguments = ["detect", str(model), str(images), "--out", str(out), "--threshold", "0.25", "--save", "json"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    content = json.loads((out / "detections.json").read_text())
    found = {entry["file_name"]: entry["detections"] for entry in content["images"]}
    assert sum(map(len, found.values())) > 8 and "more images/000004.jpg" in found
    return found


def _same_boxes(read: Source, images: Path, expected: dict[str, list[Any]], folder: Path) -> None:
    """Compare what our reader of a format finds with the detections, box by box."""
    assert read.content is not None
    annotations = folder / "read.json"
    annotations.write_text(json.dumps(read.content))
    found = load_images(Part(images=images, annotations=annotations), SPLIT.names)
    assert {image.path.relative_to(images).as_posix() for image in found} == set(expected)
    for image in found:
        own = expected[image.path.relative_to(images).as_posix()]
        assert [SPLIT.names[label - 1] for label in image.labels] == [entry["name"] for entry in own]
        np.testing.assert_allclose(image.boxes.numpy(), np.array([e["box"] for e in own]).reshape(-1, 4), atol=0.02)


def test_coco_is_read_by_our_reader_pycocotools_and_supervision(
    model: Path, images: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    result = _label(model, images, "--to", "coco", "--out", tmp_path, "--threshold", 0.25)
    path = tmp_path / "coco.json"
    count = sum(map(len, expected.values()))
    assert f"wrote {path}" in result.stdout and f"found {count} objects" in result.stdout
    content = json.loads(path.read_text())
    assert {(e["width"], e["height"]) for e in content["images"]} == set(SIZES.values())
    assert len(COCO(str(path)).getAnnIds()) == count
    _same_boxes(Source(images, content=content), images, expected, tmp_path)
    dataset = sv.DetectionDataset.from_coco(str(images), str(path))  # the reader of Roboflow's tools
    assert sum(len(found) for found in dataset.annotations.values()) == count
    for entry in content["annotations"]:  # the keys that FiftyOne and CVAT document
        assert {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"} <= set(entry)


def test_yolo_is_a_complete_data_set(model: Path, images: Path, expected: dict[str, list[Any]], tmp_path: Path) -> None:
    for again in ([], ["--overwrite"]):  # into the same folder
        _label(model, images, "--to", "yolo", "--out", tmp_path / "set", "--threshold", 0.25, *again)
    content = yaml.safe_load((tmp_path / "set/data.yaml").read_text())
    assert content["names"] == list(SPLIT.names) and content["nc"] == 4
    # Ultralytics resolves "path" against the working directory, and without it uses the folder of data.yaml:
    # check_det_dataset, https://docs.ultralytics.com/reference/data/utils
    assert "path" not in content and (tmp_path / "set" / content["train"]).is_dir()
    for file_name, found in expected.items():
        assert (tmp_path / "set/images" / file_name).read_bytes() == (images / file_name).read_bytes()
        lines = (tmp_path / "set/labels" / file_name).with_suffix(".txt").read_text().splitlines()
        assert len(lines) == len(found)
        assert all(re.fullmatch(r"\d+( [01]\.\d{6}){4}", line) for line in lines)
    folder = tmp_path / "set"
    _same_boxes(open_dataset(folder).parts["train"], folder / "images", expected, tmp_path)
    dataset = sv.DetectionDataset.from_yolo(str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml"))
    for path, found in dataset.annotations.items():
        own = expected[Path(path).relative_to(folder / "images").as_posix()]
        np.testing.assert_allclose(found.xyxy, np.array([e["box"] for e in own]).reshape(-1, 4), atol=0.02)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RectangleValue(_Strict):
    """Value of RectangleLabels: https://labelstud.io/tags/rectanglelabels."""

    x: float = Field(ge=0, le=100)
    y: float = Field(ge=0, le=100)
    width: float = Field(ge=0, le=100)
    height: float = Field(ge=0, le=100)
    rotation: float
    rectanglelabels: list[str] = Field(min_length=1)


class RectangleResult(_Strict):
    id: str
    type: Literal["rectanglelabels"]
    from_name: str
    to_name: str
    original_width: int = Field(gt=0)
    original_height: int = Field(gt=0)
    image_rotation: int
    score: float = Field(ge=0, le=1)
    value: RectangleValue


class Prediction(_Strict):
    model_version: str
    score: float = Field(ge=0, le=1)
    result: list[RectangleResult]


class Task(_Strict):
    """A task with pre-annotations: https://labelstud.io/guide/predictions."""

    data: dict[str, str]
    predictions: list[Prediction]


def test_label_studio_tasks_follow_its_schema_and_its_config(
    model: Path, images: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    _label(model, images, "--to", "label-studio", "--out", tmp_path, "--threshold", 0.25)
    tasks = TypeAdapter(list[Task]).validate_json((tmp_path / "label_studio.json").read_text())
    config = ET.parse(tmp_path / "label_config.xml").getroot()
    image, labels = config.find("Image"), config.find("RectangleLabels")
    assert config.tag == "View" and image is not None and labels is not None
    assert [label.attrib["value"] for label in labels] == list(SPLIT.names)
    assert labels.attrib["toName"] == image.attrib["name"]
    assert len(tasks) == len(expected)
    for task in tasks:
        address = task.data[image.attrib["value"].removeprefix("$")]
        found = expected[unquote(address.removeprefix("/data/local-files/?d="))]
        assert " " not in address
        ids = [result.id for result in task.predictions[0].result]
        assert len(set(ids)) == len(ids) == len(found)
        for result, entry in zip(task.predictions[0].result, found, strict=True):
            assert (result.from_name, result.to_name) == (labels.attrib["name"], image.attrib["name"])
            assert result.value.rectanglelabels == [entry["name"]]
            value, size = result.value, (result.original_width, result.original_height)
            corners = [value.x * size[0], value.y * size[1], (value.x + value.width) * size[0],
                       (value.y + value.height) * size[1]]  # fmt: skip
            np.testing.assert_allclose(np.array(corners) / 100, entry["box"], atol=0.01)


def test_cvat_follows_its_xml_format(model: Path, images: Path, expected: dict[str, list[Any]], tmp_path: Path) -> None:
    _label(model, images, "--to", "cvat", "--out", tmp_path, "--threshold", 0.25)
    root = ET.parse(tmp_path / "cvat.xml").getroot()
    # https://docs.cvat.ai/docs/other/xml_format: version 1.1, annotation mode
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    assert root.findtext("meta/task/mode") == "annotation"
    assert [node.findtext("name") for node in root.findall("meta/task/labels/label")] == list(SPLIT.names)
    nodes = root.findall("image")
    assert [node.attrib["id"] for node in nodes] == [str(index) for index in range(len(expected))]
    for node in nodes:
        assert set(node.attrib) == {"id", "name", "width", "height"}
        width, height = float(node.attrib["width"]), float(node.attrib["height"])
        boxes = []
        for box in node:
            assert box.tag == "box"
            assert set(box.attrib) == {"label", "source", "occluded", "z_order", "xtl", "ytl", "xbr", "ybr"}
            assert box.attrib["source"] == "auto" and box.attrib["label"] in SPLIT.names
            corners = [float(box.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr")]
            assert 0 <= corners[0] < corners[2] <= width and 0 <= corners[1] < corners[3] <= height
            boxes.append(corners)
        found = [entry["box"] for entry in expected[node.attrib["name"]]]
        np.testing.assert_allclose(np.array(boxes).reshape(-1, 4), np.array(found).reshape(-1, 4), atol=0.01)
    _same_boxes(open_dataset(tmp_path / "cvat.xml").parts["train"], images, expected, tmp_path)


def test_labels_in_the_format_of_cvat_become_training_data(model: Path, images: Path, tmp_path: Path) -> None:
    _label(model, images, "--to", "cvat", "--out", tmp_path, "--threshold", 0.25)
    arguments = ["init", tmp_path / "cvat.xml", "--images", images, "--novel", "cone", "--out", tmp_path / "own.yaml"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--teacher", TEACHER])
    assert result.exit_code == 0, result.output
    assert "found CVAT for images, from cvat.xml" in result.stdout
    assert CliRunner().invoke(app, ["validate", str(tmp_path / "own.yaml")]).exit_code == 0


@pytest.mark.parametrize("target, file", [("coco", "coco.json"), ("yolo", "labels/000004.txt"),
                                          ("label-studio", "label_config.xml"), ("cvat", "cvat.xml")])  # fmt: skip
@pytest.mark.parametrize("command", [["label", "--to"], ["detect", "--save"]])
def test_corrected_labels_are_replaced_only_with_overwrite(
    command: list[str], target: str, file: str, model: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("corrected")
    name, option = command
    arguments = [name, str(model), str(images / "more images/000004.jpg"), option, target, "--out", str(tmp_path)]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2 and "already exists, and may have been corrected" in refused.stderr
    assert (tmp_path / file).read_text() == "corrected" and len(list(tmp_path.iterdir())) == 1
    replaced = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert replaced.exit_code == 0 and (tmp_path / file).read_text() != "corrected", replaced.output


class _FiftyOneImage(BaseModel):
    """An image of fiftyone.types.COCODetectionDataset, https://docs.voxel51.com/user_guide/import_datasets.html."""

    model_config = ConfigDict(strict=True)
    id: int
    file_name: str
    width: int
    height: int


class _FiftyOneObject(BaseModel):
    model_config = ConfigDict(strict=True)
    id: int
    image_id: int
    category_id: int
    bbox: list[float] = Field(min_length=4, max_length=4)
    area: float
    iscrowd: Literal[0, 1]
    segmentation: list[Any] | dict[str, Any]
    score: float = Field(ge=0, le=1)  # read as the confidence


def test_coco_follows_the_layout_of_fiftyone(model: Path, images: Path, tmp_path: Path) -> None:
    _label(model, images, "--to", "coco", "--out", tmp_path, "--threshold", 0.25)
    content = json.loads((tmp_path / "coco.json").read_text())
    found = TypeAdapter(list[_FiftyOneImage]).validate_python(content["images"])
    assert all((images / image.file_name).is_file() for image in found)  # file names are relative to data_path
    objects = TypeAdapter(list[_FiftyOneObject]).validate_python(content["annotations"])
    assert objects and {each.image_id for each in objects} <= {image.id for image in found}
    known = {each["id"]: each["name"] for each in content["categories"]}
    assert {each.category_id for each in objects} <= set(known) and tuple(known.values()) == SPLIT.names


def test_coco_beside_the_images_is_the_layout_of_roboflow(model: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    shutil.copytree(images, folder)
    _label(model, folder, "--to", "coco", "--out", tmp_path / "labels", "--threshold", 0.25)
    shutil.move(tmp_path / "labels" / "coco.json", folder / "_annotations.coco.json")
    assert list(open_dataset(tmp_path).parts) == ["train"]  # our reader of Roboflow's exports


def test_files_of_label_studio_are_refused_with_the_format_to_export(model: Path, images: Path, tmp_path: Path) -> None:
    _label(model, images, "--to", "label-studio", "--out", tmp_path, "--threshold", 0.25)
    exported = [{"id": 1, "annotations": [{"result": [{"from_name": "label", "value": {}}]}], "data": {}}]
    (tmp_path / "export").mkdir()
    (tmp_path / "export/project.json").write_text(json.dumps(exported))
    for path in (tmp_path / "label_studio.json", tmp_path, tmp_path / "export"):
        arguments = ["init", path, "--images", images, "--novel", "cone", "--out", tmp_path / "own.yaml"]
        result = CliRunner().invoke(app, [*map(str, arguments), "--teacher", TEACHER])
        assert result.exit_code == 2, result.output
        assert "of Label Studio in its own JSON" in result.stderr and "as COCO, YOLO or Pascal VOC" in result.stderr


def test_images_of_the_same_name_are_refused(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cat.jpg").write_bytes((images / "000011.jpg").read_bytes())
    shutil.copyfile(tmp_path / "a/cat.jpg", tmp_path / "cat.jpeg")
    pairs = {"yolo": ["a/cat.jpg", "cat.jpeg"], "coco": ["a/cat.jpg", "b/cat.jpg"]}
    with monkeypatch.context() as unused:
        unused.setattr(Detector, "load", None)  # nothing is detected before
        for target, files in pairs.items():
            sources = [str(tmp_path / file) for file in files]
            arguments = ["label", str(model), *sources, "--to", target, "--out", str(tmp_path / "o")]
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 2 and "such as cat" in result.stderr
        folder = str(tmp_path)  # cat.jpeg and clip.mp4 beside the folders, and a second cat
        shutil.copyfile(images / "000011.jpg", tmp_path / "cat.jpg")
        with video_writer(tmp_path / "clip.mp4", 10, (64, 64)) as write:
            write(np.zeros((64, 64, 3), np.uint8))
        arguments = ["detect", str(model), folder, "--save", "json,yolo", "--out", str(tmp_path / "o")]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2 and "such as cat" in result.stderr, result.output
    (tmp_path / "clip.mp4").unlink()
    (tmp_path / "cat.jpg").unlink()
    (tmp_path / "cat.jpeg").unlink()
    _label(model, tmp_path, "--to", "yolo", "--out", tmp_path / "o")
    assert {path.parent.name for path in (tmp_path / "o/labels").rglob("*.txt")} == {"a", "b"}


@pytest.mark.parametrize("source", ["images and a video", "camera:0", "https://127.0.0.1:9/cat.jpg"])
def test_what_is_not_an_image_file_is_refused_before_anything_is_detected(
    source: str, model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "load", None)
    folder = tmp_path / "images and a video"
    folder.mkdir()
    shutil.copyfile(images / "000011.jpg", folder / "000011.jpg")
    with video_writer(folder / "a.mp4", 10, (64, 64)) as write:
        write(np.zeros((64, 64, 3), np.uint8))
    given = str(folder) if source == folder.name else source
    result = CliRunner().invoke(app, ["label", str(model), given, "--to", "coco", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and "the frames of videos, as files first" in result.stderr, result.output
    assert not (tmp_path / "out").exists()
