"""Data sets in other formats than COCO JSON: recognition, reading, conversion."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ezsd.commands.convert import convert
from ezsd.data.formats.coco import count_boxes, load_images, read_part
from ezsd.data.formats.recognize import DataSet, open_dataset
from ezsd.data.samples import ImageSet
from ezsd.errors import ArtifactError, DataError
from ezsd.recipe import Part
from tiny import CROWD_IMAGE, TinyCoco, make_tiny_coco

NAMES = ("circle", "square", "bar", "triangle", "ring")


def _loaded(found: DataSet, part: str, folder: Path, names: tuple[str, ...] | None = None) -> ImageSet:
    source = found.parts[part]
    annotations = source.annotations or folder / f"{part}.json"
    if source.content is not None:
        annotations.write_text(json.dumps(source.content))
    return read_part(Part(images=source.images, annotations=annotations), names).images_or_error(skip_bad=False)


def _boxes(images: ImageSet) -> dict[str, list[tuple[str, bool, list[float]]]]:
    """Return the boxes by file name, in a comparable order."""
    return {
        image.path.name: sorted(
            (images.names[label - 1], crowd, [round(side, 1) for side in box])
            for label, crowd, box in zip(image.labels.tolist(), image.crowd.tolist(), image.boxes.tolist(), strict=True)
        )
        for image in images
    }


def _close(first: ImageSet, second: ImageSet, crowds: bool = True) -> None:
    one, two = _boxes(first), _boxes(second)
    assert one.keys() == two.keys()
    for name in one:
        rows = [row for row in one[name] if crowds or not row[1]]
        assert [row[:2] for row in rows] == [row[:2] for row in two[name]]
        for row, other in zip(rows, two[name], strict=True):
            assert np.allclose(row[2], other[2], atol=0.11)


@pytest.fixture
def coco(tmp_path: Path) -> TinyCoco:
    return make_tiny_coco(tmp_path / "tiny")


def _two_parts(coco: TinyCoco, folder: Path) -> Path:
    """Write the data set in the layout of Roboflow, with the same images in both parts."""
    for part in ("train", "valid"):
        shutil.copytree(coco.images, folder / part)
        (folder / part / "_annotations.coco.json").write_text(json.dumps(coco.content))
    return folder


@pytest.mark.parametrize("to", ["yolo", "voc", "coco"])
def test_boxes_survive_a_round_trip_through_another_format(coco: TinyCoco, tmp_path: Path, to: Any) -> None:
    source = _two_parts(coco, tmp_path / "roboflow")
    convert(source, tmp_path / "other", to)
    convert(tmp_path / "other", tmp_path / "again", "coco")
    before, after = (open_dataset(folder) for folder in (source, tmp_path / "again"))
    assert list(after.parts) == ["train", "val"]
    for part in after.parts:
        images = _loaded(before, part, tmp_path, NAMES)
        if to == "voc" and part == "val":  # stems are unique in VOC
            assert count_boxes(_loaded(after, part, tmp_path, NAMES)) == count_boxes(images)
            continue
        _close(images, _loaded(after, part, tmp_path, NAMES), crowds=to != "yolo")


def test_voc_survives_a_round_trip_through_coco(coco: TinyCoco, tmp_path: Path) -> None:
    convert(coco.annotations.parent, tmp_path / "voc", "voc")
    convert(tmp_path / "voc", tmp_path / "coco", "coco")
    convert(tmp_path / "coco", tmp_path / "again", "voc")
    files = {path.name: path for path in (tmp_path / "voc" / "Annotations").iterdir()}
    assert len(files) == len(list((tmp_path / "again" / "Annotations").iterdir())) > 3
    for name, path in files.items():
        first, again = (ElementTree.parse(each).getroot() for each in (path, tmp_path / "again" / "Annotations" / name))
        for kind in ("name", "difficult", "bndbox"):
            one, other = ([ElementTree.tostring(each).split() for each in root.iter(kind)] for root in (first, again))
            assert sorted(one) == sorted(other)


def test_crowd_boxes_become_difficult_objects_and_back(coco: TinyCoco, tmp_path: Path) -> None:
    source = _two_parts(coco, tmp_path / "roboflow")
    convert(source, tmp_path / "voc", "voc")
    text = (tmp_path / "voc" / "Annotations" / f"{CROWD_IMAGE:06d}.xml").read_text()
    assert text.count("<difficult>1</difficult>") == 1
    notes = convert(source, tmp_path / "yolo", "yolo").notes
    assert "2 crowd boxes are left out: YOLO has none." in notes


def test_a_folder_with_files_is_not_overwritten(coco: TinyCoco, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="already exists"):
        convert(coco.annotations.parent, tmp_path / "tiny", "yolo")


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
def test_images_of_one_name_in_two_folders_stay_two_images(
    to: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = []
    for number, name in enumerate(("a/0.png", "b/0.png"), start=1):
        file = tmp_path / "set" / "images" / name
        file.parent.mkdir(parents=True)
        Image.new("RGB", (40, 20), (number, 0, 0)).save(file)
        entries.append({"id": number, "file_name": name, "width": 40, "height": 20})
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [n, 2, 9, 9], "iscrowd": 0} for n in (1, 2)]
    content = {"images": entries, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "set" / "train.json").write_text(json.dumps(content))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    convert(Path("../set"), Path("../out"), to)
    images = _loaded(open_dataset(tmp_path / "out"), "train", tmp_path)
    pairs = {(Image.open(image.path).getpixel((0, 0)), round(float(image.boxes[0, 0]))) for image in images}
    assert pairs == {((1, 0, 0), 1), ((2, 0, 0), 2)}


@pytest.mark.parametrize("skip_bad", [False, True])
def test_bad_boxes_stop_a_conversion_unless_they_are_skipped(skip_bad: bool, coco: TinyCoco, tmp_path: Path) -> None:
    content = json.loads(coco.annotations.read_text())
    content["annotations"][0]["bbox"] = [-50, 0, 10, 10]
    coco.annotations.write_text(json.dumps(content))
    if not skip_bad:
        with pytest.raises(DataError, match="--skip-bad"):
            convert(coco.annotations.parent, tmp_path / "out", "coco")
        return
    made = convert(coco.annotations.parent, tmp_path / "out", "coco", skip_bad=True)
    assert "1 image or box left out" in made.summary[1]


def test_a_conversion_notes_what_it_does_not_copy_from_lvis(coco: TinyCoco, tmp_path: Path) -> None:
    content = json.loads(coco.annotations.read_text())
    for entry in content["images"]:
        entry["neg_category_ids"] = []
    coco.annotations.write_text(json.dumps(content))
    assert "neg_category_ids" in convert(coco.annotations.parent, tmp_path / "out", "coco").notes[-1]


# YOLO


def _yolo(folder: Path, yaml_text: str, labels: str = "0 0.5 0.5 0.5 0.5\n", images: str = "train/images") -> Path:
    (folder / images).mkdir(parents=True)
    Image.new("RGB", (40, 20), (90, 90, 90)).save(folder / images / "a.png")
    path = folder / images.replace("images", "labels") / "a.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(labels)
    (folder / "data.yaml").write_text(yaml_text)
    return folder


@pytest.mark.parametrize("train", ["../train/images", "train/images", "./train/images", "ABSOLUTE", "[train/images]",
                                   "/content/datasets/mine/train/images", "train\\\\images", "list.txt"])  # fmt: skip
def test_the_images_of_yolo_are_found_however_they_are_named(tmp_path: Path, train: str) -> None:
    train = train.replace("ABSOLUTE", str(tmp_path / "train" / "images"))
    _yolo(tmp_path, f"train: {train}\nnc: 1\nnames: [cat]\n")
    (tmp_path / "list.txt").write_text("./train/images/a.png\n")
    found = open_dataset(tmp_path)
    assert found.description == "YOLO, from data.yaml: 1 part (train), 1 name"
    images = _loaded(found, "train", tmp_path)
    assert images.names == ("cat",) and images[0].boxes.tolist() == [[10, 5, 30, 15]]


def test_the_layout_of_ultralytics_is_read(tmp_path: Path) -> None:
    text = "path: ../datasets/set\ntrain: images/train2017\nval: images/val2017\nnames: {0: cat, 1: dog}\n"
    _yolo(tmp_path / "set", text, "1 0.1 0.2 0.9 0.2 0.5 0.8\n", "images/train2017")
    found = open_dataset(tmp_path / "set" / "data.yaml")
    assert "no images are there; it is left out" in found.notes[0]
    images = _loaded(found, "train", tmp_path)
    assert images.has_masks and images[0].labels.tolist() == [2]
    assert np.allclose(images[0].boxes[0], [4, 4, 36, 16])


@pytest.mark.parametrize(
    "line, expected",
    [
        ("0 0.5 0.5 0.5", "3 numbers"),
        ("0 0.5 0.5 0.5 0.5 0.9", "is the last one a score"),
        ("cat 0.5 0.5 0.5 0.5", "has text"),
        ("1 0.5 0.5 0.5 0.5", "it must be 0 to 0"),
        ("-1 0.5 0.5 0.5 0.5", "it must be 0 to 0"),
        ("0 12 5 30 15", "not all between 0 and 1"),
        ("0 nan 0.5 0.5 0.5", "not all between 0 and 1"),
        ("0 1e400 0.5 0.5 0.5", "not all between 0 and 1"),
    ],
)
def test_an_invalid_line_is_reported_with_its_place(tmp_path: Path, line: str, expected: str) -> None:
    _yolo(tmp_path, "train: train/images\nnames: [cat]\n", f"0 0.5 0.5 0.5 0.5\n\n{line}\n")
    with pytest.raises(DataError, match=r"a\.txt, line 3: .*" + expected):
        open_dataset(tmp_path)


def test_label_files_without_an_image_are_noted(tmp_path: Path) -> None:
    _yolo(tmp_path, "train: train/images\nnames: [cat]\n")
    for name, text in (("b", "0 0.5 0.5 0.5 0.5\n"), ("c", "0 0.5 0.5 0.5 0.5\n"), ("empty", ""), ("readme", "a b\n")):
        (tmp_path / "train" / "labels" / f"{name}.txt").write_text(text)
    first = tmp_path / "train" / "labels" / "b.txt"
    notes = open_dataset(tmp_path).notes
    assert notes == (f"2 of 3 label files have no image (the first is {first}); their boxes are not read.",)


def test_annotation_files_in_another_format_are_noted(tmp_path: Path) -> None:
    _yolo(tmp_path, "train: train/images\nnames: [cat]\n")
    for name in ("a", "b"):
        (tmp_path / f"{name}.xml").write_text("<annotation><filename>a.png</filename></annotation>")
    (note,) = open_dataset(tmp_path).notes
    assert note.startswith("2 annotation files in another format, Pascal VOC, are not read (the first is ")


def test_lines_of_a_list_that_are_found_as_one_image_are_noted(tmp_path: Path) -> None:
    _yolo(tmp_path, "train: list.txt\nnames: [cat]\n")
    lines = ["/data/setA/train/images/a.png", "/data/setB/train/images/a.png", "./train/images/a.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    (note,) = open_dataset(tmp_path).notes
    assert note.startswith(f"2 lines of {tmp_path / 'list.txt'} are found as an image")
    assert lines[0] in note and lines[1] in note
    (tmp_path / "list.txt").write_text("./train/images/a.png\ntrain/images/a.png\n")
    assert open_dataset(tmp_path).notes == ()


@pytest.mark.parametrize("names", ["[1, 2]", "cat", "{a: b}", "[]", "[no, yes]"])
def test_names_that_are_no_text_are_refused(tmp_path: Path, names: str) -> None:
    _yolo(tmp_path, f"train: train/images\nnames: {names}\n")
    with pytest.raises(DataError, match="list of category names"):
        open_dataset(tmp_path)


def test_labels_that_are_not_found_are_an_error_and_not_images_without_objects(tmp_path: Path) -> None:
    _yolo(tmp_path, "train: train/images\nnames: [cat]\n")
    shutil.rmtree(tmp_path / "train" / "labels")
    with pytest.raises(DataError, match="none of 1 image has a label file"):
        open_dataset(tmp_path)


def test_images_without_labels_and_listed_images_that_are_missing_are_noted(tmp_path: Path) -> None:
    _yolo(tmp_path, "train: list.txt\nnames: [cat]\n")
    shutil.copy(tmp_path / "train/images/a.png", tmp_path / "train/images/b.png")
    (tmp_path / "list.txt").write_text("train/images/a.png\ntrain/images/b.png\ntrain/images/c.png\n")
    missing, unlabelled = open_dataset(tmp_path).notes
    assert "1 of 3 images that" in missing and "the first is train/images/c.png" in missing
    assert "1 of 2 images has no label file" in unlabelled and "b.png" in unlabelled


@pytest.mark.parametrize("names", ["data.yaml", "classes.txt"])
def test_images_with_one_label_file_are_refused_and_not_counted_twice(tmp_path: Path, names: str) -> None:
    _yolo(tmp_path, "")
    (tmp_path / "data.yaml").unlink()
    (tmp_path / names).write_text("train: train/images\nnames: [cat]\n" if names == "data.yaml" else "cat\n")
    shutil.copy(tmp_path / "train/images/a.png", tmp_path / "train/images/a.jpg")
    with pytest.raises(DataError, match=r"a\.txt is the label file of .*a\.jpg and of a\.png"):
        open_dataset(tmp_path)


def test_the_last_folder_named_images_has_the_labels_beside_it(tmp_path: Path) -> None:
    home = tmp_path / "images" / "set"
    _labelled(home, "images/train/a.png", "labels/train/a.txt")
    _labelled(tmp_path, "labels/set/images/train/unused.png", "labels/set/images/train/a.txt")
    (tmp_path / "labels/set/images/train/a.txt").write_text("0 0.1 0.1 0.1 0.1\n" * 7)
    (home / "data.yaml").write_text("train: images/train\nnames: [cat, dog]\n")
    images = _loaded(open_dataset(home), "train", tmp_path)
    assert images[0].boxes.tolist() == [[10, 5, 30, 15]]


@pytest.mark.parametrize("kind", ["data.yaml", "obj.data"])
def test_a_val_part_of_the_train_images_is_left_out_and_one_with_some_of_them_is_refused(
    tmp_path: Path, kind: str
) -> None:
    for name in "abc":
        _labelled(tmp_path, f"images/{name}.png", f"labels/{name}.txt")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    settings = {"data.yaml": "train: a.txt\nval: b.txt\nnames: [cat, dog]\n",
                "obj.data": "train = a.txt\nvalid = b.txt\nnames = obj.names\n"}  # fmt: skip
    (tmp_path / kind).write_text(settings[kind])
    for name, listed in (("a.txt", "ab"), ("b.txt", "ab")):
        (tmp_path / name).write_text("".join(f"images/{each}.png\n" for each in listed))
    found = open_dataset(tmp_path)
    assert list(found.parts) == ["train"]
    assert "the val part has only images of the train part" in found.notes[0]
    (tmp_path / "b.txt").write_text("images/b.png\nimages/c.png\n")
    with pytest.raises(DataError, match=r"1 of 2 val images is also in the train part \(the first is .*b\.png"):
        open_dataset(tmp_path)


def test_folders_with_dots_in_their_names_are_searched(coco: TinyCoco, tmp_path: Path) -> None:
    _yolo(tmp_path / "one" / "my.v1.yolov8", "train: ../train/images\nnames: [cat]\n")
    assert open_dataset(tmp_path / "one").description.startswith("YOLO, from my.v1.yolov8/data.yaml")
    shutil.copytree(coco.images, tmp_path / "two" / "set.v2" / "all.images")
    (tmp_path / "two" / "labels.json").write_text(json.dumps(coco.content))
    assert len(_loaded(open_dataset(tmp_path / "two"), "train", tmp_path, NAMES)) == 8


@pytest.mark.parametrize("unreadable", [".", "train/images"])
def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreadable: str
) -> None:
    _yolo(tmp_path, "train: train/images\nnames: [cat]\n")
    read = os.scandir

    def scandir(path: Any = ".") -> Any:
        if Path(path) == tmp_path / unreadable:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(os, "scandir", scandir)  # permissions do not stop root, which runs tests in containers
    with pytest.raises(DataError, match=r"cannot be read: Permission denied\. Check the permissions") as raised:
        open_dataset(tmp_path / "data.yaml" if unreadable != "." else tmp_path)
    assert str(tmp_path / unreadable) in str(raised.value)


# YOLO without data.yaml


def _labelled(folder: Path, image: str, labels: str | None = None) -> None:
    """Write an image and its label file; by default the file lies beside the image."""
    path = folder / image
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20), (90, 90, 90)).save(path)
    text = folder / labels if labels else path.with_suffix(".txt")
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text("1 0.5 0.5 0.5 0.5\n")


_CVAT_DATA = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
_DARKNET = {
    "CVAT": (
        {
            "obj.data": _CVAT_DATA,
            "train.txt": "data/obj_train_data/a.png\n",
            "valid.txt": "data/obj_valid_data/b.png\n",
        },
        "obj.names",
        (("obj_train_data/a.png", None), ("obj_valid_data/b.png", None)),
        ["train", "val"],
    ),
    "darknet without obj.data": (
        {"train.txt": "C:\\\\set\\\\images\\\\a.png\n", "valid.txt": "images/b.png\n"},
        "obj.names",
        (("images/a.png", None), ("images/b.png", None)),
        ["train", "val"],
    ),
    "LabelImg": ({}, "classes.txt", (("a.png", None),), ["train"]),
    "LabelImg with a folder of labels": ({}, "labels/classes.txt", (("images/a.png", "labels/a.txt"),), ["train"]),
    "Label Studio": (
        {"notes.json": '{"categories": [{"id": 0, "name": "cat"}], "info": {}}'},
        "classes.txt",
        (("images/a.png", "labels/a.txt"),),
        ["train"],
    ),
    "Roboflow": (
        {"valid/_darknet.labels": "cat\ndog\n"},
        "train/_darknet.labels",
        (("train/a.png", None), ("valid/b.png", None)),
        ["train", "val"],
    ),
}


@pytest.mark.parametrize("layout", _DARKNET)
def test_yolo_without_data_yaml_is_read(tmp_path: Path, layout: str) -> None:
    files, names, images, parts = _DARKNET[layout]
    for image, labels in images:
        _labelled(tmp_path, image, labels)
    for name, text in {**files, names: "cat\ndog\n"}.items():
        (tmp_path / name).write_text(text)
    found = open_dataset(tmp_path)
    assert found.description.startswith(f"YOLO, from {names}: ") and found.description.endswith(", 2 names")
    assert list(found.parts) == parts and not found.notes
    for part, (image, _) in zip(parts, images, strict=True):
        loaded = _loaded(found, part, tmp_path)
        assert loaded.names == ("cat", "dog") and loaded[0].path == tmp_path / image
        assert loaded[0].labels.tolist() == [2] and loaded[0].boxes.tolist() == [[10, 5, 30, 15]]


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"classes.txt": "cat\n\ndog\n"}, r"classes\.txt: line 2 is empty"),
        ({"classes.txt": "cat\n"}, r"a\.txt, line 1: class 1; there is 1 name,"),
        ({"classes.txt": "cat\ndog\n", "labels/classes.txt": "dog\ncat\n"}, "have different names"),
        ({"set/obj.data": "names = obj.names\ntrain = train.txt\n", "set/obj.names": "cat\n"}, "Save images"),
    ],
)
def test_darknet_files_that_cannot_be_right_are_refused(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    _labelled(tmp_path, "a.png")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=expected):
        open_dataset(tmp_path / "set" if "set/obj.data" in files else tmp_path)


def test_names_without_labels_are_no_yolo_data_set(coco: TinyCoco, tmp_path: Path) -> None:
    (coco.annotations.parent / "classes.txt").write_text("circle\n")
    (coco.annotations.parent / "weights.data").write_bytes(b"\xff\xfe names = \0")
    assert open_dataset(coco.annotations.parent).description.startswith("COCO JSON")


def test_folders_outside_the_data_set_are_not_read(tmp_path: Path) -> None:
    _yolo(tmp_path / "other", "")
    _yolo(tmp_path / "mine", "train: ../../../other/train/images\nnames: [cat]\n")
    for path in (tmp_path / "mine" / "train").glob("*/a.*"):
        path.rename(path.with_stem("mine"))
    found = open_dataset(tmp_path / "mine")  # read as Roboflow means it
    assert [entry["file_name"] for entry in (found.parts["train"].content or {})["images"]] == ["mine.png"]


# Pascal VOC


_XML = """<annotation><folder>f</folder><filename>{name}</filename><size><width>40</width><height>20</height></size>
<object><name>cat</name><difficult>{difficult}</difficult><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax>
<ymax>15</ymax></bndbox><part><name>head</name></part></object></annotation>"""


def _voc(folder: Path, xml: str, name: str = "a") -> Path:
    for inner in ("Annotations", "JPEGImages"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20), (90, 90, 90)).save(folder / "JPEGImages" / f"{name}.png")
    (folder / "Annotations" / f"{name}.xml").write_text(xml)
    return folder


@pytest.mark.parametrize("name", ["a.png", "C:\\\\data\\\\a.png", "../../etc/a.png", "a.jpg"])
def test_voc_is_read_with_its_pixel_ranges(tmp_path: Path, name: str) -> None:
    found = open_dataset(_voc(tmp_path, _XML.format(name=name, difficult=0)))
    assert found.description == "Pascal VOC, 1 XML file: 1 part (train); 1 name"
    images = _loaded(found, "train", tmp_path)
    assert images.names == ("cat",) and images[0].boxes.tolist() == [[10, 5, 30, 15]]


def test_the_parts_of_voc_are_those_of_its_lists(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        _voc(tmp_path, _XML.format(name=f"{name}.png", difficult=1), name)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("b 1\nd 1\n")
    found = open_dataset(tmp_path)
    assert [_loaded(found, part, tmp_path)[0].path.stem for part in ("train", "val")] == ["a", "b"]
    assert "1 XML file is in no list" in found.notes[0]
    assert "1 name in the lists" in found.notes[1] and found.notes[1].endswith("the first is d.")
    assert count_boxes(_loaded(found, "train", tmp_path))[1] == 1


@pytest.mark.parametrize(
    "train, expected",
    [
        ("my cat 1\nstreet 1\na.b\n", {"my cat 1", "street 1", "a.b"}),
        ("my cat 1  1\ndog  -1\nstreet 1 0\n", {"my cat 1", "dog", "street 1"}),
        ("street 1\nstreet 1 -1\ndog 1\n", {"street", "street 1", "dog"}),
        ("street 1\ndog\n", {"street 1", "dog"}),
    ],
)
def test_lists_of_voc_have_stems_with_spaces_and_flags(tmp_path: Path, train: str, expected: set[str]) -> None:
    for name in ("my cat 1", "street", "street 1", "a.b", "dog"):
        _voc(tmp_path, _XML.format(name=f"{name}.png", difficult=0), name)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(train)
    assert {image.path.stem for image in _loaded(open_dataset(tmp_path), "train", tmp_path)} == expected


@pytest.mark.parametrize(
    "xml, expected",
    [
        ("<annotation><object>", "cannot be read as XML"),
        ('<!DOCTYPE a [<!ENTITY x "yy"><!ENTITY z "&x;&x;">]><annotation><filename>&z;</filename></annotation>', "XML"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation>&x;</annotation>',
            "cannot be read as XML",
        ),
        ("<annotation><filename>a.png</filename><object><name>cat</name></object></annotation>", "object 1: expected"),
        (_XML.replace("<xmin>11", "<xmin>nan").format(name="a.png", difficult=0), "object 1: expected"),
    ],
)
def test_invalid_and_hostile_xml_is_refused(tmp_path: Path, xml: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        open_dataset(_voc(tmp_path, xml))


_CHINESE = _XML.replace(">cat<", ">猫<").replace("<annotation>", "<annotation><path>D:\\桌面\\{name}</path>")


@pytest.mark.parametrize("declared, encoding", [
    ("gbk", "gbk"), ("GB2312", "gb2312"), ("Shift_JIS", "shift_jis"), ("utf-8", "utf-8"), ("UTF-8", "utf-8-sig"),
    ("utf-16", "utf-16"), ("utf-16", "utf-8"), ("unknown-1", "utf-8"), ("", "utf-8"), ("", "utf-16"),
])  # fmt: skip
def test_xml_is_read_in_its_encoding(tmp_path: Path, declared: str, encoding: str) -> None:
    text = _CHINESE.format(name="a.png", difficult=0).replace("桌", "机" if encoding == "shift_jis" else "桌")
    folder = _voc(tmp_path, "")
    head = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    (folder / "Annotations" / "a.xml").write_bytes((head + text).encode(encoding))
    assert count_boxes(_loaded(open_dataset(folder), "train", tmp_path))[0] == {"猫": 1}


def test_xml_in_another_encoding_than_it_says_is_read_if_its_names_are_not_concerned(tmp_path: Path) -> None:
    folder = _voc(tmp_path / "set", "")
    text = _CHINESE.format(name="a.png", difficult=0)
    (folder / "Annotations" / "a.xml").write_bytes(text.replace("猫", "cat").encode("gbk"))
    assert count_boxes(_loaded(open_dataset(folder), "train", tmp_path))[0] == {"cat": 1}
    (folder / "Annotations" / "a.xml").write_bytes(text.encode("gbk"))
    expected = r"a\.xml, object 1: .* bytes of another encoding than the file says\. Save the file as UTF-8"
    with pytest.raises(DataError, match=expected):
        open_dataset(folder)


def _voc_files(folder: Path, files: dict[str, str | None]) -> Path:
    """Write images, and XML files by the name of the image in them; the category is the path of the XML file."""
    for path, name in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if name is None:
            Image.new("RGB", (40, 20), (90, 90, 90)).save(folder / path)
        else:
            xml = _XML.format(name=name, difficult=0).replace(">cat<", f">{path}<")
            (folder / path).write_text(xml)
    return folder


def _voc_pairs(found: DataSet) -> dict[str, str]:
    """Return the image of each XML file of `_voc_files`, of all parts."""
    pairs = {}
    for source in found.parts.values():
        content = source.content or {}
        images = {image["id"]: image["file_name"] for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        pairs |= {names[box["category_id"]]: images[box["image_id"]] for box in content["annotations"]}
    return pairs


@pytest.mark.parametrize("form", ["cam{}/0.png", "0.png", "C:\\data\\cam{}\\0.png", "", "0.jpg", "0"])
@pytest.mark.parametrize(
    "xml, image",
    [
        ("Annotations/cam{}/0.xml", "JPEGImages/cam{}/0.png"),
        ("cam{}/labels/0.xml", "cam{}/images/0.png"),
        ("cam{}/0.xml", "cam{}/0.png"),
        ("Annotations/cam{}/day/0.xml", "JPEGImages/cam{}/day/0.png"),
        ("Annotations/cam{}/0.xml", "cam{}/JPEGImages/deep/0.png"),
    ],
)
def test_voc_files_of_one_name_have_the_images_of_their_folders(
    tmp_path: Path, xml: str, image: str, form: str
) -> None:
    expected = {xml.format(number): image.format(number) for number in (1, 2, 3)}
    files: dict[str, str | None] = dict.fromkeys(expected.values())
    files |= {xml.format(number): form.format(number) for number in (1, 2, 3)}
    assert _voc_pairs(open_dataset(_voc_files(tmp_path, files))) == expected


def test_voc_parts_have_the_images_of_their_folders(tmp_path: Path) -> None:
    expected = {f"labels/{part}/0.xml": f"images/{part}/0.png" for part in ("train", "val")}
    files: dict[str, str | None] = dict.fromkeys(expected, "0.png")
    found = open_dataset(_voc_files(tmp_path, files | dict.fromkeys(expected.values())))
    assert list(found.parts) == ["train", "val"] and _voc_pairs(found) == expected


@pytest.mark.parametrize(
    "files, image",
    [
        ({"Annotations/0.xml": "b/9.png", "a/9.png": None, "b/9.png": None}, "b/9.png"),
        ({"Annotations/a/0.xml": "b/0.png", "images/a/0.png": None, "images/b/0.png": None}, "images/b/0.png"),
        ({"Annotations/0.xml": "x/cam2/0.png", "JPEGImages/cam1/0.png": None, "y/cam2/0.png": None}, "y/cam2/0.png"),
        ({"cam1/0.xml": "0.png", "cam1/0.png": None, "thumbs/cam1/0.png": None}, "cam1/0.png"),
        ({"Annotations/0.xml": "0.png", "JPEGImages/0.png": None, "JPEGImages/old/0.png": None}, "JPEGImages/0.png"),
        ({"Annotations/0.xml": "0", "JPEGImages/0.png": None, "SegmentationClass/0.png": None}, "JPEGImages/0.png"),
        ({"Annotations/0.xml": "0.jpg", "A/0.png": None, "JPEGImages/0.jpg": None}, "JPEGImages/0.jpg"),
        ({"Annotations/a/0.xml": "c/0.png", "JPEGImages/b/0.png": None}, "JPEGImages/b/0.png"),
        (
            {"Annotations/b/a.xml": "a.png", "JPEGImages/a.png": None, "JPEGImages/b/a.png.png": None},
            "JPEGImages/a.png",
        ),
        ({"Annotations/1.xml": "0007.png", "JPEGImages/0007.png": None, "x/y/1.png": None}, "JPEGImages/0007.png"),
    ],
)  # fmt: skip
def test_the_image_of_a_voc_file(tmp_path: Path, files: dict[str, str | None], image: str) -> None:
    assert list(_voc_pairs(open_dataset(_voc_files(tmp_path, files))).values()) == [image]


@pytest.mark.parametrize(
    "files",
    [
        {"Annotations/0.xml": "0.png", "a/0.png": None, "b/0.png": None},
        {"Annotations/c/0.xml": "0.png", "JPEGImages/a/0.png": None, "JPEGImages/b/0.png": None},
        {"Annotations/1.xml": "0.png", "a/0.png": None, "b/0.png": None},
        {"Annotations/b/0.xml": "0.png", "JPEGImages/a/0.png": None, "JPEGImages/b/0.jpg": None},
    ],
)
def test_voc_files_with_several_possible_images_are_refused(tmp_path: Path, files: dict[str, str | None]) -> None:
    with pytest.raises(DataError) as error:
        open_dataset(_voc_files(tmp_path, files))
    assert "its image could be" in str(error.value)
    assert all(str(tmp_path / path) in str(error.value) for path in files)


def test_renamed_voc_files_keep_their_images(tmp_path: Path) -> None:
    expected = {f"Annotations/im{number}.xml": f"JPEGImages/im{number}.png" for number in range(3)}
    files: dict[str, str | None] = dict.fromkeys(expected, "im0.png")
    found = open_dataset(_voc_files(tmp_path, files | dict.fromkeys(expected.values())))
    assert _voc_pairs(found) == expected
    assert found.notes == (
        "2 XML files name another image than the one with their own name, which is used; the first is "
        f"{Path('Annotations', 'im1.xml')}.",
    )


@pytest.mark.parametrize("folder", ["Annotations", "Annotations/val"])
def test_two_voc_files_of_one_image_are_refused(tmp_path: Path, folder: str) -> None:
    files = {"Annotations/a.xml": "a.png", f"{folder}/b.xml": "a.png", "JPEGImages/a.png": None}
    with pytest.raises(DataError) as error:
        open_dataset(_voc_files(tmp_path, files))
    assert "are both XML files of the image" in str(error.value)
    assert all(str(tmp_path / path) in str(error.value) for path in files)


def _voc_lists(folder: Path, lists: dict[str, str], xml_files: str, top: str = "") -> DataSet:
    """Read a data set with lists in `ImageSets/Main`, and XML files whose images have the names of their paths."""
    files: dict[str, str | None] = {}
    for path in xml_files.split():
        files |= {f"{top}Annotations/{path}.xml": f"{path}.png", f"{top}JPEGImages/{path}.png": None}
    _voc_files(folder, files)
    (folder / top / "ImageSets" / "Main").mkdir(parents=True)
    for name, text in lists.items():
        (folder / top / "ImageSets" / "Main" / name).write_text(text)
    return open_dataset(folder)


def _voc_parts(found: DataSet) -> dict[str, list[str]]:
    """Return the file names by part, without the folder JPEGImages and the suffix."""
    return {
        part: [
            entry["file_name"].replace("JPEGImages/", "").removesuffix(".png")
            for entry in (source.content or {})["images"]
        ]
        for part, source in found.parts.items()
    }


@pytest.mark.parametrize(
    "lists, parts",
    [
        ({"Train.txt": "a", "VALID.TXT": "b", "Testing.txt": "c"}, {"train": ["a"], "val": ["b"], "test": ["c"]}),
        ({"training.txt": "a", "validation.txt": "b", "TEST.txt": "c"}, {"train": ["a"], "val": ["b"], "test": ["c"]}),
        ({"TrainVal.txt": "a\nb", "test.txt": "c"}, {"train": ["a", "b"], "test": ["c"]}),
        ({"trainval.txt": "a\nb\nc", "train.txt": "a", "val.txt": "b"}, {"train": ["a", "c"], "val": ["b"]}),
        ({"train.txt": "a.png\nJPEGImages/b.xml", "val.txt": "Annotations/c"}, {"train": ["a", "b"], "val": ["c"]}),
    ],
)
def test_lists_of_voc_have_other_names(tmp_path: Path, lists: dict[str, str], parts: dict[str, list[str]]) -> None:
    found = _voc_lists(tmp_path, lists, "a b c")
    assert _voc_parts(found) == parts and not found.notes


@pytest.mark.parametrize("place", [".", "ImageSets", "ImageSets/Layout"])
def test_lists_of_voc_in_other_places_are_noted(tmp_path: Path, place: str) -> None:
    _voc(tmp_path, _XML.format(name="a.png", difficult=0))
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / "train.txt").write_text("a\n")
    (note,) = open_dataset(tmp_path).notes
    assert f"those elsewhere are not used: {Path(place) / 'train.txt'}. Copy them to ImageSets/Main" in note


@pytest.mark.parametrize("text, crowds", [("1", 1), ("true", 1), (" 1 ", 1), ("yes", 1), ("0", 0), ("no", 0), ("", 0)])
def test_difficult_is_said_in_several_ways(tmp_path: Path, text: str, crowds: int) -> None:
    found = open_dataset(_voc(tmp_path / "set", _XML.format(name="a.png", difficult=text)))
    assert count_boxes(_loaded(found, "train", tmp_path))[1] == crowds


@pytest.mark.parametrize("old, new, expected", [
    ("<annotation>", "<annotation xmlns='http://host/voc'>", [[10, 5, 30, 15]]),
    ("annotation>", "Annotation>", [[10, 5, 30, 15]]),
    ("bndbox>", "BndBox>", [[10, 5, 30, 15]]),
    ("</bndbox>", "</bndbox><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>",
     [[10, 5, 30, 15], [0, 0, 4, 4]]),
    (_XML[_XML.index("<bndbox>"):_XML.index("<part>")],
     "<robndbox><cx>20</cx><cy>10</cy><w>8</w><h>4</h><angle>1.5707963</angle></robndbox>", [[18, 6, 22, 14]]),
    (_XML[_XML.index("<bndbox>"):_XML.index("<part>")],
     "<robndbox><cx>2</cx><cy>10</cy><w>8</w><h>4</h><angle>0</angle></robndbox>", [[0, 8, 6, 12]]),
])  # fmt: skip
def test_objects_of_voc_are_written_in_several_ways(
    tmp_path: Path, old: str, new: str, expected: list[list[float]]
) -> None:
    found = open_dataset(_voc(tmp_path / "set", _XML.format(name="a.png", difficult=0).replace(
        old.format(name="a.png", difficult=0), new)))  # fmt: skip
    assert np.allclose(_loaded(found, "train", tmp_path)[0].boxes, expected, atol=1e-3)


def test_lists_of_voc_that_are_not_used_are_noted(tmp_path: Path) -> None:
    lists = {
        "train.txt": "a",
        "cat_train.txt": "a 1\nb -1",
        "default.txt": "b",
        "cat_default.txt": "b 1",
        "x_y.txt": "b",
    }
    found = _voc_lists(tmp_path, lists, "a b")
    folder = Path("ImageSets", "Main")
    assert _voc_parts(found) == {"train": ["a"]}
    assert found.notes[1] == (
        f"Lists of {folder} that name no part are not used: {folder / 'default.txt'}, {folder / 'x_y.txt'}."
    )
    found = _voc_lists(tmp_path / "other", {"my_train.txt": "a"}, "a b")
    assert _voc_parts(found) == {"train": ["a", "b"]} and "my_train.txt" in found.notes[0]


def test_each_year_of_voc_has_its_lists(tmp_path: Path) -> None:
    top = "VOCdevkit/VOC2007/"
    found = _voc_lists(tmp_path, {"train.txt": "a", "val.txt": "b"}, "a b c", top)
    assert _voc_parts(found) == {"train": [f"{top}a"], "val": [f"{top}b"]}
    assert found.notes == (f"1 XML file is in no list of {Path('ImageSets', 'Main')} and left out.",)
    other = "VOCdevkit/VOC2012/"
    found = _voc_lists(tmp_path, {"train.txt": "b\nd", "val.txt": "a"}, "a b", other)
    assert _voc_parts(found) == {"train": [f"{top}a", f"{other}b"], "val": [f"{top}b", f"{other}a"]}
    assert "1 name in the lists" in found.notes[1] and found.notes[1].endswith("the first is d.")


@pytest.mark.parametrize("form", ["{}", "{} 1", "JPEGImages/{}", "{}.png", "./{}"])
def test_lists_of_voc_have_folders(tmp_path: Path, form: str) -> None:
    lists = {"train.txt": "\n".join(map(form.format, ("cam1/0", "cam3/0"))), "val.txt": form.format("cam2/0")}
    found = _voc_lists(tmp_path, lists, "cam1/0 cam2/0 cam4/0")
    assert _voc_parts(found) == {"train": ["cam1/0"], "val": ["cam2/0"]}
    assert found.notes[0].startswith("1 XML file is in no list")
    assert found.notes[1].startswith("1 name in the lists") and "cam3/0" in found.notes[1]


@pytest.mark.parametrize(
    "lists",
    [
        {"train.txt": "a\nb", "val.txt": "b"},
        {"train.txt": "a\nb", "test.txt": "b"},
        {"trainval.txt": "a\nb", "test.txt": "b"},
        {"trainval.txt": "a\nb", "val.txt": "b", "test.txt": "b"},
    ],
)
def test_a_name_in_the_lists_of_two_parts_of_voc_is_refused(tmp_path: Path, lists: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"b\.xml is in the lists of several parts in .*: .*, (val|test)"):
        _voc_lists(tmp_path, lists, "a b")


def test_an_image_whose_stem_is_the_name_of_another_one(tmp_path: Path) -> None:
    expected = {"Annotations/a.xml": "JPEGImages/a.png", "Annotations/a.png.xml": "JPEGImages/a.png.png"}
    files: dict[str, str | None] = {"Annotations/a.xml": "a.png", "Annotations/a.png.xml": "a.png.png"}
    assert _voc_pairs(open_dataset(_voc_files(tmp_path, files | dict.fromkeys(expected.values())))) == expected


def test_names_that_voc_cannot_hold_stay_apart(coco: TinyCoco, tmp_path: Path) -> None:
    new = dict(zip(NAMES, ("cat", " cat", "ca\x01t", "\ufffe ", "dog\n"), strict=True))
    for category in coco.content["categories"]:
        category["name"] = new[category["name"]]
    (tmp_path / "source" / "train").mkdir(parents=True)
    (tmp_path / "source" / "train" / "_annotations.coco.json").write_text(json.dumps(coco.content))
    shutil.copytree(coco.images, tmp_path / "source" / "train", dirs_exist_ok=True)
    before = _loaded(open_dataset(tmp_path / "source"), "train", tmp_path)
    notes = convert(tmp_path / "source", tmp_path / "voc", "voc").notes
    after = _loaded(open_dataset(tmp_path / "voc"), "train", tmp_path)
    assert len(set(before.names)) == 5  # the reader of COCO files keeps them apart
    written = dict(zip(new.values(), ("cat", "cat 2", "cat 3", "unnamed", "dog"), strict=True))
    expected = {written[name]: count for name, count in count_boxes(before)[0].items() if count}
    assert count_boxes(after)[0] == expected
    assert notes[-1] == (
        "4 names have spaces around them or characters that XML has not, and are written in another way: "
        r"' cat' as 'cat 2', 'ca\x01t' as 'cat 3', '\ufffe ' as 'unnamed', 'dog\n' as 'dog'."
    )


# LabelMe


def test_labelme_shapes_become_boxes(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), (90, 90, 90)).save(tmp_path / "a.png")
    shapes: list[dict[str, Any]] = [
        {"label": "cat", "points": [[30, 15], [10, 5]], "shape_type": "rectangle"},
        {"label": "cat", "points": [[1, 1], [9, 1], [5, 9]], "shape_type": "polygon"},
        {"label": "dog", "points": [[20, 10], [23, 14]], "shape_type": "circle"},
        {"label": "dog", "points": [[20, 10]], "shape_type": "point"},
    ]
    (tmp_path / "a.json").write_text(
        json.dumps(
            {
                "imageData": "x" * 99999,
                "imagePath": "..\\\\b\\\\a.png",
                "imageWidth": 40,
                "imageHeight": 20,
                "shapes": shapes,
            }
        )
    )
    found = open_dataset(tmp_path)
    assert found.notes == ("Shapes without a box are left out: 1 point.",)
    images = _loaded(found, "train", tmp_path)
    assert images[0].boxes.tolist() == [[10, 5, 30, 15], [1, 1, 9, 9], [15, 5, 25, 15]]


@pytest.mark.parametrize("kind, points, expected", [
    ("rotation", [[10, 2], [20, 6], [18, 12], [8, 8]], [8, 2, 20, 12]),
    ("rectangle", [[10, 2], [20, 2], [20, 12], [10, 12]], [10, 2, 20, 12]),
    ("quadrilateral", [[10, 2], [20, 6], [18, 12], [8, 8]], [8, 2, 20, 12]),
    ("Polygon", [[1, 1], [9, 1], [5, 9]], [1, 1, 9, 9]),
    (None, [[1, 1], [9, 1], [5, 9]], [1, 1, 9, 9]),
    ("mask", [[1, 1], [9, 9]], [1, 1, 9, 9]),
    *((kind, [[1, 1], [9, 1], [5, 9]][:count], None) for kind, count in (
        ("line", 2), ("linestrip", 3), ("point", 1), ("points", 3), ("circle", 3), ("cuboid", 3), ("polygon", 2),
        ("rectangle", 1),
    )),
])  # fmt: skip
def test_each_labelme_shape_becomes_a_box_or_is_noted(
    tmp_path: Path, kind: str | None, points: list[list[int]], expected: list[int] | None
) -> None:
    Image.new("RGB", (40, 20), (90, 90, 90)).save(tmp_path / "a.png")
    shapes = [{"label": "cat", "points": points, "shape_type": kind}]
    (tmp_path / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": shapes}))
    found = open_dataset(tmp_path)
    assert _loaded(found, "train", tmp_path, ("cat",))[0].boxes.tolist() == ([] if expected is None else [expected])
    assert found.notes == (() if expected else (f"Shapes without a box are left out: 1 {kind}.",))


def _labelme(folder: Path, shapes: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    Image.new("RGB", (40, 20), (90, 90, 90)).save(folder / "a.png")
    content = {"imagePath": "a.png", "imageWidth": 40, "imageHeight": 20, "shapes": shapes}
    (folder / "a.json").write_text(json.dumps(content))
    return folder


def test_polygons_of_one_group_are_one_object(tmp_path: Path) -> None:
    one, other = [[1, 1], [9, 1], [5, 9]], [[21, 2], [29, 2], [25, 9]]
    rows = [
        ("cat", one, "polygon", 1), ("cat", other, "polygon", 1), ("dog", other, "polygon", 1),
        ("cat", other, "polygon", 2), ("cat", one, "polygon", None), ("cat", other, "polygon", None),
        ("cat", one[:2], "rectangle", 1),
    ]  # fmt: skip
    shapes = [dict(zip(("label", "points", "shape_type", "group_id"), row, strict=True)) for row in rows]
    content = open_dataset(_labelme(tmp_path / "set", shapes)).parts["train"].content or {}
    boxes = [box["bbox"] for box in content["annotations"]]
    assert boxes == [[1, 1, 28, 8], [21, 2, 8, 7], [21, 2, 8, 7], [1, 1, 8, 8], [21, 2, 8, 7], [1, 1, 8, 0]]
    assert [len(box.get("segmentation", ())) for box in content["annotations"]] == [2, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("difficult, crowds", [(True, 1), (False, 0), (None, 0)])
def test_difficult_shapes_are_crowds(tmp_path: Path, difficult: bool | None, crowds: int) -> None:
    shape = {"label": "cat", "points": [[30, 15], [10, 5]], "shape_type": "rectangle", "difficult": difficult}
    found = open_dataset(_labelme(tmp_path / "set", [shape]))
    assert count_boxes(_loaded(found, "train", tmp_path))[1] == crowds


@pytest.mark.parametrize("kind, points, expected", [
    ("rotation", [[30, 2], [44, 9], [38, 15], [28, 8]], [[28, 2, 40, 15]]),
    ("circle", [[2, 10], [2, 20]], [[0, 0, 12, 20]]),
    ("circle", [[2, 10], [2, 16]], [[0, 4, 8, 16]]),
    ("rectangle", [[30, 2], [44, 9]], None),
    ("circle", [[60, 10], [60, 16]], None),
])  # fmt: skip
def test_the_box_around_a_round_or_rotated_shape_ends_at_the_image(
    tmp_path: Path, kind: str, points: list[list[int]], expected: list[list[int]] | None
) -> None:
    found = open_dataset(_labelme(tmp_path / "set", [{"label": "cat", "points": points, "shape_type": kind}]))
    if expected is None:
        with pytest.raises(DataError, match="outside the image"):
            _loaded(found, "train", tmp_path)
    else:
        assert _loaded(found, "train", tmp_path)[0].boxes.tolist() == expected


def test_two_labelme_files_of_one_image_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), (90, 90, 90)).save(tmp_path / "a.png")
    shapes = [{"label": "cat", "points": [[30, 15], [10, 5]], "shape_type": "rectangle"}]
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps({"imagePath": "a.png", "shapes": shapes}))
    with pytest.raises(DataError) as raised:
        open_dataset(tmp_path)
    assert f"{tmp_path / 'a.json'} and {tmp_path / 'b.json'} are both files of the image" in str(raised.value)


# COCO


@pytest.mark.parametrize(
    "annotations, images",
    [
        ("train/_annotations.coco.json", "train"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_default.json", "images"),
        ("labels.json", "data"),
        ("result.json", "images"),
        ("lvis_v1_train.json", "."),
    ],
)
def test_the_images_of_coco_files_are_found(coco: TinyCoco, tmp_path: Path, annotations: str, images: str) -> None:
    root = tmp_path / "set"
    shutil.copytree(coco.images, root / images)
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    (root / annotations).write_text(json.dumps(coco.content))
    found = open_dataset(root)
    assert found.description == f"COCO JSON, from {annotations}"
    assert count_boxes(_loaded(found, "train", tmp_path)) == count_boxes(load_images(coco.part(), NAMES))


@pytest.mark.parametrize("images", ["train2017", "images/train2017", "images", "."])
def test_the_images_of_a_coco_file_by_itself_are_found_beside_its_folder(
    coco: TinyCoco, tmp_path: Path, images: str
) -> None:
    shutil.copytree(coco.images, tmp_path / "set" / images, dirs_exist_ok=True)
    file = tmp_path / "set" / "annotations" / "instances_train2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps(coco.content))
    found = open_dataset(file)
    assert found.parts["train"].images == tmp_path / "set" / images
    assert found.notes == (f"No image is beside or below {file}; those in {tmp_path / 'set' / images} are used.",)
    assert open_dataset(file.parent).parts["train"].images == file.parent.parent / "annotations"


def test_what_is_no_data_set_says_so(coco: TinyCoco, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"8 images, but no annotations.*ezsd detect"):
        open_dataset(coco.images)
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="format is not known"):
        open_dataset(tmp_path / "empty")


@pytest.mark.real_data
def test_a_downloaded_yolo_set_has_the_boxes_of_its_coco_form(shared_data: Path, tmp_path: Path) -> None:
    found = open_dataset(shared_data / "aquarium_yolo")
    assert found.description == "YOLO, from data.yaml: 2 parts (train, val), 7 names"
    for part, other in (("train", "train"), ("val", "valid")):
        images = _loaded(found, part, tmp_path)
        folder = shared_data / "aquarium"
        coco = Part(images=folder / "images", annotations=folder / f"instances_{other}.json")
        reference, boxes = _boxes(load_images(coco, images.names)), _boxes(images)
        assert len(boxes) == 12
        for name, rows in boxes.items():
            assert len(rows) == len(reference[f"{other}_{name.split('_jpeg')[0]}.jpg"])


# CVAT


def _cvat(path: Path, images: str, labels: str = "cat dog") -> None:
    listed = "".join(f"<label><name>{name}</name><attributes/></label>" for name in labels.split())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<?xml version='1.0'?><annotations><version>1.1</version><meta><project><labels>{listed}</labels></project>"
        f"</meta>{images}</annotations>"
    )


def test_cvat_shapes_become_upright_boxes(tmp_path: Path) -> None:
    for part in ("Train", "Validation"):
        (tmp_path / "images" / part / "a b").mkdir(parents=True)
        Image.new("RGB", (40, 40), (90, 90, 90)).save(tmp_path / "images" / part / "a b" / f"{part}.png")
    shapes = """
        <box label="dog" source="manual" occluded="0" xtl="10.00" ytl="5.00" xbr="30.00" ybr="15.00" z_order="0">
          <attribute name="age">2</attribute></box>
        <box label="dog" xtl="10" ytl="15" xbr="30" ybr="25" rotation="90"/>
        <polygon label="cat" points="1.00,1.00;9.00,1.00;5.00,9.00"/>
        <ellipse label="cat" cx="20" cy="20" rx="10" ry="5" rotation="90"/>
        <mask label="cat" rle="3, 5" left="4" top="6" width="8" height="10"/>
        <polyline label="cat" points="1,1;2,2"/><tag label="cat"/>"""
    size = 'width="40" height="40"'
    _cvat(
        tmp_path / "annotations.xml",
        f'<image id="0" name="a b/Train.png" subset="Train" {size}>{shapes}</image>'
        f'<image id="1" name="a b/Validation.png" subset="Validation" {size}></image>',
    )
    found = open_dataset(tmp_path)
    assert list(found.parts) == ["train", "val"]
    assert found.notes == ("Shapes without a box are left out: 1 polyline, 1 tag.",)
    image = _loaded(found, "train", tmp_path, ("cat", "dog"))[0]
    assert image.path == tmp_path / "images/Train/a b/Train.png"
    assert image.labels.tolist() == [2, 2, 1, 1, 1]
    assert np.allclose(
        image.boxes, [[10, 5, 30, 15], [15, 10, 25, 30], [1, 1, 9, 9], [15, 10, 25, 30], [4, 6, 12, 16]], atol=1e-3
    )
    assert len(_loaded(found, "val", tmp_path, ("cat", "dog"))[0].boxes) == 0


def test_two_cvat_files_with_one_image_are_refused(tmp_path: Path) -> None:
    for name in ("a.xml", "b.xml"):
        _cvat(tmp_path / name, '<image name="a.png" width="9" height="9"/>')
    with pytest.raises(DataError) as raised:
        open_dataset(tmp_path)
    assert f"{tmp_path / 'a.xml'} and {tmp_path / 'b.xml'} both have boxes of the image a.png" in str(raised.value)


def test_errors_of_cvat_files_say_where(tmp_path: Path) -> None:
    _cvat(
        tmp_path / "a.xml",
        '<image name="a.png"><box label="cat" xtl="1" ytl="x"/><polygon label="" points="1"/></image>',
    )
    _cvat(tmp_path / "b.xml", '<track id="0" label="cat"/>')
    (tmp_path / "c.xml").write_text("<annotations><image>")
    with pytest.raises(DataError) as error:
        open_dataset(tmp_path)
    text = str(error.value)
    assert f"{tmp_path / 'a.xml'}: a.png: shape 1 (box): expected a label, and coordinates" in text
    assert (
        "shape 2 (polygon)" in text and "Export it as CVAT for images 1.1" in text and "c.xml: cannot be read" in text
    )


def test_voc_with_attributes_of_its_root_is_not_taken_for_cvat(coco: TinyCoco, tmp_path: Path) -> None:
    convert(_two_parts(coco, tmp_path / "roboflow"), tmp_path / "voc", "voc")
    for path in (tmp_path / "voc").rglob("*.xml"):
        path.write_text(path.read_text().replace("<annotation>", '<annotation verified="yes">'))
    assert open_dataset(tmp_path / "voc").description.startswith("Pascal VOC")


def test_a_size_below_one_pixel_is_none(tmp_path: Path) -> None:
    xml = "<annotation><size><width>0.5</width><height>0</height></size></annotation>"
    found = open_dataset(_voc(tmp_path / "set", xml))
    assert [(image["width"], image["height"]) for image in (found.parts["train"].content or {})["images"]] == [
        (None, None)
    ]
