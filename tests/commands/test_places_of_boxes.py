"""Messages about boxes name the file and line that hold the box, in all formats and commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from ezsd.cli import app
from ezsd.commands.convert import convert
from ezsd.commands.init import OwnFiles, make_recipe
from ezsd.commands.validate import check_recipe
from ezsd.errors import DataError, EzsdError
from tiny_teacher import TEACHER

_GOOD, _BAD, _EMPTY = (10, 5, 30, 15), (20, 5, 56, 15), (10, 5, 10, 15)  # x1, y1, x2, y2 in images of 40 x 20 pixels
_PLACES = {
    "yolo": "labels/2.txt, line 3",
    "voc": "2.xml, object 2",
    "labelme": "2.json, shapes[1]",
    "cvat": "annotations.xml, image 2.png, shape 2",
}


def _data_set(folder: Path, kind: str, second: tuple[float, ...]) -> Path:
    """Write five images with two boxes each; the second box of the image 2.png is ``second``."""
    folder.mkdir()
    (folder / "labels").mkdir()
    images = ""
    for number in range(5):
        boxes = [_GOOD, second if number == 2 else _GOOD]
        Image.new("RGB", (40, 20), (40 * number, 9, 90)).save(folder / f"{number}.png")
        if kind == "yolo":
            rows = [((x1 + x2) / 80, (y1 + y2) / 40, (x2 - x1) / 40, (y2 - y1) / 20) for x1, y1, x2, y2 in boxes]
            text = "\n\n".join(" ".join(map(str, (0, *row))) for row in rows)
            (folder / "labels" / f"{number}.txt").write_text(text)
        if kind == "voc":
            tag = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
            corners = [tag.format(x1 + 1, y1 + 1, x2, y2) for x1, y1, x2, y2 in boxes]
            items = "".join(f"<object><name>cat</name><bndbox>{each}</bndbox></object>" for each in corners)
            (folder / f"{number}.xml").write_text(f"<annotation><filename>{number}.png</filename>{items}</annotation>")
        if kind == "labelme":
            shapes = [{"label": "cat", "points": [box[:2], box[2:]], "shape_type": "rectangle"} for box in boxes]
            (folder / f"{number}.json").write_text(json.dumps({"imagePath": f"{number}.png", "shapes": shapes}))
        items = "".join(f'<box label="cat" xtl="{a}" ytl="{b}" xbr="{c}" ybr="{d}"/>' for a, b, c, d in boxes)
        images += f'<image name="{number}.png">{items}</image>'
    if kind == "yolo":
        (folder / "classes.txt").write_text("cat")
    if kind == "cvat":
        (folder / "annotations.xml").write_text(f"<annotations>{images}</annotations>")
    return folder


@pytest.mark.parametrize("kind", _PLACES)
def test_a_bad_box_is_named_by_its_file_and_place_and_not_by_a_file_that_ezsd_writes(tmp_path: Path, kind: str) -> None:
    folder = _data_set(tmp_path / "set", kind, _BAD)
    expected = f"{folder}/{_PLACES[kind]}: cat: bbox [20, 5, 36, 10] (x, y, width, height in pixels) is outside"
    made = make_recipe(OwnFiles(folder), ["dog"], tmp_path / "r.yaml", TEACHER, "cpu")
    notes = [note for note in made.advice if "is outside" in note]
    assert len(notes) == 1 and expected in notes[0] and "r_train.json" not in notes[0]
    with pytest.raises(EzsdError) as raised:
        check_recipe(tmp_path / "r.yaml")
    assert raised.value.problems[0].startswith(expected)
    with pytest.raises(DataError) as raised_by_convert:
        convert(folder, tmp_path / "out", "coco")
    assert raised_by_convert.value.problems[0].startswith(expected)


@pytest.mark.parametrize("kind", _PLACES)
def test_a_box_without_area_is_named_by_its_place(tmp_path: Path, kind: str) -> None:
    folder = _data_set(tmp_path / "set", kind, _EMPTY)
    notes = convert(folder, tmp_path / "out", "coco").notes
    assert any(f"the first is {folder}/{_PLACES[kind]}: cat: bbox [10, 5, 0, 10] (x, y" in note for note in notes)


def test_a_part_that_is_split_off_is_named_by_the_file_of_the_user(tmp_path: Path) -> None:
    convert(_data_set(tmp_path / "set", "yolo", _GOOD), tmp_path / "out", "coco")
    file = tmp_path / "out" / "train" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 9, "name": "Dog"})
    file.write_text(json.dumps(content))
    result = CliRunner().invoke(app, ["init", str(file), "--novel", "dog", "--out", str(tmp_path / "r.yaml")])
    output = " ".join(result.output.split())
    assert result.exit_code == 2 and f'{file}: no category "dog"' in output and "r_train.json" not in output
