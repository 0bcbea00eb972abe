"""Label files of YOLO are found in folders and with suffixes of any case, and only inside the data set."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ezsd.data.formats.recognize import open_dataset
from ezsd.errors import DataError

_BOX = "0 0.5 0.5 0.5 0.5\n"


def _write(folder: Path, *names: str, text: str = _BOX) -> Path:
    """Write an image for each name of an image, and a text for every other name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("RGB", (40, 20), (90, 90, 90)).save(path)
        else:
            path.write_text(text)
    return folder


def _boxes(dataset: Path) -> int:
    return len((open_dataset(dataset).parts["train"].content or {})["annotations"])


@pytest.mark.parametrize("images, labels", [
    ("Images/a.png", "Labels/a.txt"), ("images/train/a.png", "Labels/Train/a.txt"), ("IMAGES/a.png", "labels/a.TXT"),
    ("a.png", "a.TXT"), ("train/a.png", "Labels/a.Txt"), ("train/Images/a.png", "train/LABELS/a.txt"),
])  # fmt: skip
@pytest.mark.parametrize("names", ["data.yaml", "Classes.TXT"])
def test_folders_and_suffixes_have_any_case(tmp_path: Path, images: str, labels: str, names: str) -> None:
    _write(tmp_path, images, labels)
    parent = Path(images).parent.as_posix()
    _write(tmp_path, names, text="cat\n" if names == "Classes.TXT" else f"train: {parent.lower()}\nnames: [cat]\n")
    assert _boxes(tmp_path) == 1 and not open_dataset(tmp_path).notes


def test_files_of_darknet_have_any_case(tmp_path: Path) -> None:
    _write(tmp_path, "Obj_Train_Data/a.png", "Obj_Train_Data/a.TXT", "b.png")
    _write(tmp_path, "Train.TXT", text="Obj_Train_Data/a.png\n")
    _write(tmp_path, "Obj.NAMES", text="cat\n")
    _write(tmp_path, "Obj.Data", text="train = data/train.txt\nnames = data/obj.names\n")
    found = open_dataset(tmp_path)
    assert [entry["file_name"] for entry in (found.parts["train"].content or {})["images"]] == ["a.png"]


@pytest.mark.parametrize("place", ["labels/set", "images/labels"])
def test_label_files_outside_of_the_data_set_are_not_read(tmp_path: Path, place: str) -> None:
    dataset = _write(tmp_path / "images" / "set", "a.png", "b.png", "a.txt")
    _write(tmp_path / place, "a.txt", "b.txt", text=_BOX * 5)
    _write(dataset, "classes.txt", text="cat\n")
    assert _boxes(dataset) == 1
    assert "1 of 2 images" in open_dataset(dataset).notes[0]


@pytest.mark.parametrize("names", ["data.yaml", "classes.txt"])
def test_a_folder_of_images_alone_says_where_the_label_files_are(tmp_path: Path, names: str) -> None:
    _write(tmp_path, "images/a.png", "labels/a.txt")
    _write(tmp_path / "images", names, text="cat\n" if names == "classes.txt" else "train: .\nnames: [cat]\n")
    expected = rf"labels/a\.txt is outside of the data set .*/images: give a folder that has both, such as {tmp_path}"
    with pytest.raises(DataError, match=expected):
        open_dataset(tmp_path / "images")


@pytest.mark.parametrize("images, labels", [("images", "annotations"), ("imgs/train", "labels/train")])
@pytest.mark.parametrize("names", ["data.yaml", "classes.txt"])
def test_label_files_in_another_folder_are_named(tmp_path: Path, images: str, labels: str, names: str) -> None:
    _write(tmp_path, f"{images}/a.png", f"{labels}/a.txt")
    _write(tmp_path, names, text="cat\n" if names == "classes.txt" else f"train: {images}\nnames: [cat]\n")
    expected = rf"none of 1 image has .* {tmp_path}/{labels}/a\.txt has the name of an image, but lies elsewhere"
    with pytest.raises(DataError, match=expected):
        open_dataset(tmp_path)
