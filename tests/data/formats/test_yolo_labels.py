"""Label files of YOLO that cannot be right are refused with the likely cause."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ezsd.data.formats.recognize import open_dataset
from ezsd.errors import DataError


def _set(folder: Path, labels: dict[str, str], **files: str) -> Path:
    """Write the images a and b, and label files."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (40, 20), (90, 90, 90)).save(folder / "images" / f"{name}.png")
    for name, text in labels.items():
        (folder / "labels" / f"{name}.txt").write_text(text)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


_BOX = "0 0.5 0.5 0.5 0.5\n"
_NAMES = {"data_yaml": "train: images\nnames: [cat, dog]\n", "classes_txt": "cat\ndog\n"}


def test_text_of_powershell_is_read_and_other_encodings_say_what_to_do(tmp_path: Path) -> None:
    folder = _set(tmp_path / "set", {"a": _BOX, "b": _BOX}, **_NAMES)
    for path in (*folder.glob("labels/*"), folder / "classes.txt", folder / "data.yaml"):
        path.write_bytes(path.read_text().encode("utf-16"))
    assert len((open_dataset(folder).parts["train"].content or {})["annotations"]) == 2
    assert not open_dataset(folder).notes
    (folder / "labels" / "a.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"a\.txt cannot be read as text: .* Save it as UTF-8"):
        open_dataset(folder)


@pytest.mark.parametrize("text", ["names:\n\t- cat\ntrain: images\n", b"names: [\xff]\ntrain: images\n"])
@pytest.mark.parametrize("name", ["data.yaml", "coco.yaml"])
def test_a_yaml_file_with_names_that_cannot_be_read_is_named(tmp_path: Path, text: str | bytes, name: str) -> None:
    folder = _set(tmp_path / "set", {"a": _BOX})
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=f"{name} cannot be read as YAML"):
        open_dataset(folder)


@pytest.mark.parametrize("names", _NAMES)
def test_label_files_with_other_names_than_the_images_are_named(tmp_path: Path, names: str) -> None:
    folder = _set(tmp_path / "set", {"a_png": _BOX, "b_png": _BOX}, **{names: _NAMES[names]})
    with pytest.raises(DataError) as raised:
        open_dataset(folder)
    assert f"none of 2 images has a label file; that of {folder}/images/a.png is" in str(raised.value)
    expected = f"2 label files are there, but none has the name of an image (the first is {folder}/labels/a_png.txt)"
    assert expected in str(raised.value)


def test_labels_without_names_are_named(tmp_path: Path) -> None:
    folder = _set(tmp_path / "set", {"a": _BOX})
    with pytest.raises(DataError, match=r"label files of YOLO, such as .*labels/a\.txt, but no names of their classes"):
        open_dataset(folder)


def test_classes_counted_from_one_are_refused_once(tmp_path: Path) -> None:
    labels = {"a": "1 0.5 0.5 0.5 0.5\n" * 3, "b": _BOX.replace("0 ", "2 ", 1) * 2}
    folder = _set(tmp_path / "set", labels, data_yaml=_NAMES["data_yaml"])
    with pytest.raises(DataError, match=r"b\.txt, line 1: class 2; .* seem to be counted from 1") as raised:
        open_dataset(folder)
    assert len(raised.value.problems) == 1


def test_two_classes_with_boxes_and_one_name_are_refused(tmp_path: Path) -> None:
    labels = {"a": _BOX, "b": _BOX.replace("0 ", "2 ", 1)}
    folder = _set(tmp_path / "set", labels, data_yaml="train: images\nnames: [cat, dog, cat]\n")
    with pytest.raises(DataError, match=r'b\.txt, line 1: classes 0 and 2 have one name, "cat"'):
        open_dataset(folder)
    (folder / "labels" / "b.txt").write_text(_BOX)
    assert [entry["name"] for entry in (open_dataset(folder).parts["train"].content or {})["categories"]] == [
        "cat",
        "dog",
    ]


def test_another_number_of_names_than_nc_is_refused(tmp_path: Path) -> None:
    folder = _set(tmp_path / "set", {"a": _BOX}, data_yaml=_NAMES["data_yaml"] + "nc: 3\n")
    with pytest.raises(DataError, match=r"data\.yaml: nc is 3, but there are 2 names\."):
        open_dataset(folder)
    (folder / "data.yaml").write_text(_NAMES["data_yaml"] + "nc: 2\n")
    assert open_dataset(folder).description.endswith("2 names")


def test_names_that_are_not_used_are_noted(tmp_path: Path) -> None:
    folder = _set(tmp_path / "set", {"a": _BOX, "b": _BOX}, **_NAMES)
    assert not open_dataset(folder).notes
    (folder / "classes.txt").write_text("dog\ncat\n")
    _set(folder / "other", {"a": _BOX}, data_yaml=_NAMES["data_yaml"])
    one, two = open_dataset(folder).notes
    assert f"{folder}/data.yaml is read; 1 other YAML file with names is not: {folder}/other/data.yaml." in one
    assert f"{folder}/classes.txt has other names than {folder}/data.yaml, which are used." in two


def test_rows_that_do_not_fit_the_keypoints_are_refused(tmp_path: Path) -> None:
    rows = {"a": "0 0.5 0.5 0.2 0.2 0.5 0.5 0.6 0.6\n", "b": _BOX}
    folder = _set(tmp_path / "set", rows, data_yaml=_NAMES["data_yaml"] + "kpt_shape: [3, 2]\n")
    with pytest.raises(DataError, match=r"a\.txt, line 1: 8 numbers after the class; expected 4 of a box, or 10 with"):
        open_dataset(folder)
