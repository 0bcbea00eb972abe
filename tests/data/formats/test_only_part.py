"""A data set with only a val or test part is used for training, and this is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ezsd.commands.convert import convert
from ezsd.commands.init import OwnFiles, make_recipe
from ezsd.data.formats.recognize import open_dataset
from ezsd.errors import DataError
from tiny_teacher import TEACHER

_BOX = "<object><name>cat</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>15</ymax></bndbox></object>"
_KINDS = ("coco", "yolo", "darknet", "voc", "labelme", "cvat")


def _part(root: Path, kind: str, part: str) -> Path:
    """Write four images with a box each as one part of a data set."""
    folder, names = root / part, [f"{part}{number}" for number in range(4)]
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.new("RGB", (40, 20), (60 * number, len(part), 90)).save(folder / f"{name}.png")
        if kind in ("yolo", "darknet"):
            (folder / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
        if kind == "voc":
            (folder / f"{name}.xml").write_text(f"<annotation><filename>{name}.png</filename>{_BOX}</annotation>")
        if kind == "labelme":
            shape = {"label": "cat", "points": [[10, 5], [30, 15]], "shape_type": "rectangle"}
            (folder / f"{name}.json").write_text(json.dumps({"imagePath": f"{name}.png", "shapes": [shape]}))
    if kind == "yolo":
        with (root / "data.yaml").open("a") as file:
            file.write(f"{'' if file.tell() else 'names: [cat]'}\n{part}: {part}")
    if kind == "darknet":
        (root / "classes.txt").write_text("cat")
    if kind == "cvat":
        box = '<box label="cat" xtl="10" ytl="5" xbr="30" ybr="15"/>'
        images = "".join(f'<image name="{name}.png">{box}</image>' for name in names)
        (folder / "annotations.xml").write_text(f"<annotations>{images}</annotations>")
    if kind == "coco":
        entry = {"category_id": 1, "bbox": [10, 5, 20, 10], "iscrowd": 0}
        content = {
            "images": [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(names)],
            "annotations": [{"id": number, "image_id": number, **entry} for number in range(4)],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("part", ["val", "test"])
def test_a_part_that_is_alone_is_used_for_training_and_this_is_said(tmp_path: Path, kind: str, part: str) -> None:
    folder = _part(tmp_path / "set", kind, part)
    expected = f"the data set has only a {part} part; it is used as the train part."
    made = make_recipe(OwnFiles(folder), ["dog"], tmp_path / "r.yaml", TEACHER, "cpu")
    assert expected in made.advice and sum("4 images" in line for line in made.summary) == 0
    assert [line.split(",")[0] for line in made.summary[1:]] == ["found train: 3 images", "found val: 1 image"]
    converted = convert(folder, tmp_path / "out", "coco")
    assert converted.notes[0] == expected and "found train: 4 images, 4 boxes" in converted.summary[1]


def test_a_val_part_that_is_given_as_such_is_not_noted(tmp_path: Path) -> None:
    train, val = _part(tmp_path / "one", "coco", "train"), _part(tmp_path / "two", "voc", "val")
    made = make_recipe(OwnFiles(train, val_annotations=val), ["dog"], tmp_path / "r.yaml", TEACHER, "cpu")
    assert not [note for note in made.advice if "has only a" in note]
    assert open_dataset(tmp_path / "two").only == "val"


@pytest.mark.parametrize("kind", _KINDS)
def test_val_and_test_parts_without_a_train_part_are_refused(tmp_path: Path, kind: str) -> None:
    for part in ("val", "test"):
        _part(tmp_path / "set", kind, part)
    with pytest.raises(DataError, match=r"val and test parts, but none to train on\. Give .* with --val-annotations"):
        open_dataset(tmp_path / "set")
