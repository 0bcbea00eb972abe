"""Paths in data.yaml: relative ones stay inside the data set, and nothing is read in place of another folder unsaid."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ezsd.data.formats.recognize import open_dataset
from ezsd.errors import DataError


def _images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "labels").mkdir(exist_ok=True)
        Image.new("RGB", (40, 20), (90, 90, 90)).save(folder / "images" / f"{name}.png")
        (folder / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")


def _yaml(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(text + "\nnames: [cat]\n")
    return folder


def _read(dataset: Path) -> list[str]:
    content = open_dataset(dataset).parts["train"].content or {}
    return [entry["file_name"] for entry in content["images"]]


@pytest.mark.parametrize("text", ["train: ../../other/images", "path: ../../other\ntrain: images",
                                  "train: [images, ../../other/images]"])  # fmt: skip
@pytest.mark.parametrize("given", [".", "data.yaml"])
def test_a_folder_outside_of_the_data_set_is_refused_and_no_other_is_read_instead(
    tmp_path: Path, text: str, given: str
) -> None:
    _images(tmp_path / "other", "theirs")
    mine = _yaml(tmp_path / "sets" / "mine", text)
    if "path:" not in text:
        _images(mine, "mine")
    with pytest.raises(DataError) as raised:
        open_dataset(mine / given)
    expected = f"which is {tmp_path}/other/images, outside of the data set {mine}. Give a folder that has both, such as"
    assert f"{mine}/data.yaml: train is" in str(raised.value) and f"{expected} {tmp_path}, as" in str(raised.value)
    if "[" not in text:
        assert _read(tmp_path) == ["theirs.png"]


def test_the_folder_of_roboflow_is_used_although_another_one_is_outside(tmp_path: Path) -> None:
    mine = _yaml(tmp_path / "mine", "train: ../train/images")
    _images(mine / "train", "mine")
    _images(tmp_path / "train", "theirs")
    assert _read(mine) == ["mine.png"] and open_dataset(mine).notes == ()


def test_an_absolute_path_is_what_the_user_wrote(tmp_path: Path) -> None:
    _images(tmp_path / "other", "theirs")
    for number, text in enumerate(("train: {}/images", "path: {}\ntrain: images", "path: {}\ntrain: ./images")):
        assert _read(_yaml(tmp_path / str(number), text.format(tmp_path / "other"))) == ["theirs.png"]


def test_a_file_in_a_folder_of_its_own_names_folders_beside_it(tmp_path: Path) -> None:
    _images(tmp_path, "mine")
    _yaml(tmp_path / "config", "train: ../images")
    assert _read(tmp_path) == ["mine.png"]
    with pytest.raises(DataError, match="outside of the data set"):
        open_dataset(tmp_path / "config")


def test_a_path_that_is_missing_in_a_list_is_refused_and_one_that_is_read_from_its_end_is_noted(tmp_path: Path) -> None:
    _images(tmp_path, "mine")
    with pytest.raises(DataError, match=r"data\.yaml: train has 'night/pictures', which is not there"):
        open_dataset(_yaml(tmp_path, "train: [images, night/pictures]"))
    notes = open_dataset(_yaml(tmp_path, "train: day/images")).notes
    assert notes == (
        f"{tmp_path}/data.yaml: train is 'day/images', which is not there; {tmp_path}/images is read instead.",
    )


def test_a_list_of_images_stays_inside_the_data_set(tmp_path: Path) -> None:
    _images(tmp_path / "other", "theirs")
    mine = _yaml(tmp_path / "mine", "train: train.txt")
    _images(mine, "mine")
    (mine / "train.txt").write_text("../other/images/theirs.png\nimages/mine.png\n")
    assert _read(mine) == ["mine.png"]
    assert "1 of 2 images that" in open_dataset(mine).notes[0]


def test_keys_in_capitals_are_the_same_keys(tmp_path: Path) -> None:
    _images(tmp_path, "a")
    assert _read(_yaml(tmp_path, "Train: images")) == ["a.png"]
