"""Base and novel names of category splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ezsd.data.categories import CategorySplit, load_split, shipped_splits
from ezsd.errors import DataError, RecipeError


def test_the_coco_split_has_48_base_and_17_novel_names() -> None:
    split = load_split("coco_48_17")

    assert split.name == "coco_48_17"
    assert (len(set(split.base)), len(set(split.novel)), len(set(split.names))) == (48, 17, 65)
    assert split.names == split.base + split.novel
    assert split.base[0] == "person" and "toothbrush" in split.base and "horse" in split.base
    assert set(split.novel) == {
        "umbrella", "cow", "cup", "bus", "keyboard", "skateboard", "dog", "couch", "tie", "snowboard", "sink",
        "elephant", "cake", "scissors", "airplane", "cat", "knife",
    }  # fmt: skip


@pytest.mark.real_data
def test_every_name_of_the_coco_split_is_a_category_of_coco(shared_data: Path) -> None:
    content = json.loads((shared_data / "coco2k" / "instances_val.json").read_text())
    assert set(load_split("coco_48_17").names) < {entry["name"] for entry in content["categories"]}


def test_custom_names_make_a_split() -> None:
    split = load_split({"base": ["hard hat"], "novel": ["traffic cone", "van"]})
    assert split == CategorySplit("custom", ("hard hat",), ("traffic cone", "van"))


def test_few_shot_names_are_novel_names_that_are_trained() -> None:
    split = load_split({"base": ["hat"], "novel": ["cone", "van", "bus"], "few_shot": ["bus", "van"]})
    assert (split.base, split.novel) == (("hat",), ("van", "bus", "cone"))
    assert split.trained == split.names[:3] == ("hat", "van", "bus")
    with pytest.raises(RecipeError, match='split.few_shot: "hat" is not a novel name'):
        load_split({"base": ["hat"], "novel": ["cone"], "few_shot": ["hat"]})


def test_an_unknown_split_is_reported_with_the_shipped_splits() -> None:
    with pytest.raises(RecipeError) as raised:
        load_split("coco_48_7")
    assert all(name in str(raised.value) for name in shipped_splits())
    assert 'Did you mean "coco_48_17"?' in str(raised.value)


def test_all_problems_of_a_split_are_reported_together() -> None:
    with pytest.raises(RecipeError) as raised:
        load_split({"base": ["cat", "dog", "dog"], "novel": ["dog", "cow", "cow"], "unseen": ["emu"]})
    problems = raised.value.problems
    assert len(problems) == 4
    assert "unseen" in problems[0]
    assert "split.base" in problems[1] and '"dog"' in problems[1]
    assert "split.novel" in problems[2] and '"cow"' in problems[2]
    assert '"dog" is also a base name' in problems[3]


@pytest.mark.parametrize("names", [{}, {"base": []}, {"novel": ["cat"]}, {"base": "cat"}, {"base": [""]}])
def test_a_split_without_base_names_is_rejected(names: dict[str, list[str]]) -> None:
    with pytest.raises(RecipeError, match=r"split\.base"):
        load_split(names)


def _lvis(folder: Path, **changes: object) -> Path:
    categories = [
        {"id": 3, "name": "zebra", "frequency": "f"},
        {"id": 1, "name": "alarm_clock", "frequency": "c"},
        {"id": 2, "name": "aerosol_can", "frequency": "r"},
    ]
    path = folder / "lvis.json"
    _save(path, [entry | changes for entry in categories])
    return path


def _save(path: Path, categories: list[dict[str, object]]) -> None:
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))


def test_lvis_splits_follow_the_frequencies_in_order_of_category_id(tmp_path: Path) -> None:
    path = _lvis(tmp_path)
    assert load_split("lvis_rare", path) == CategorySplit("lvis_rare", ("alarm_clock", "zebra"), ("aerosol_can",))
    assert load_split("lvis_common_rare", path) == CategorySplit(
        "lvis_common_rare", ("zebra",), ("alarm_clock", "aerosol_can")
    )


def test_an_lvis_file_is_read_in_the_encodings_of_annotations(tmp_path: Path) -> None:
    path = _lvis(tmp_path)
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert load_split("lvis_rare", path).novel == ("aerosol_can",)


@pytest.mark.real_data
def test_lvis_v1_has_866_base_and_337_rare_names(shared_data: Path, tmp_path: Path) -> None:
    categories = json.loads((shared_data / "text" / "lvis_v1_categories.json").read_text())
    path = tmp_path / "lvis.json"
    _save(path, categories)
    assert tuple(map(len, (load_split("lvis_rare", path).base, load_split("lvis_rare", path).novel))) == (866, 337)
    assert len(load_split("lvis_common_rare", path).base) == 405


def test_an_lvis_split_needs_annotations_with_frequencies(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.train\.annotations"):
        load_split("lvis_rare")
    with pytest.raises(DataError, match="missing.json"):
        load_split("lvis_rare", tmp_path / "missing.json")
    with pytest.raises(RecipeError, match="frequency.*often"):
        load_split("lvis_rare", _lvis(tmp_path, frequency="often"))
    _save(tmp_path / "coco.json", [{"id": 1, "name": "cat"}])
    with pytest.raises(RecipeError, match="frequency"):
        load_split("lvis_rare", tmp_path / "coco.json")
