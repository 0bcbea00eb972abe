"""dense_reading: auto and size_power: auto are chosen by base boxes, without novel boxes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ezsd.data.categories import load_split
from ezsd.data.formats.coco import load_images
from ezsd.data.target_store import TargetStore
from ezsd.errors import RecipeError
from ezsd.pipeline.context import RunContext
from ezsd.pipeline.propose import run_propose
from ezsd.pipeline.run import run_recipe
from ezsd.recipe import Part, Recipe, parse_recipe
from ezsd.run_folder import RunFolder
from ezsd.run_metrics import PowerScore, ProposeMetrics, ReadingScore
from ezsd.selection import dense_reading, size_power
from ezsd.selection.common import balanced_images
from ezsd.selection.dense_reading import best_reading
from ezsd.selection.size_power import POWERS, best_power
from tiny_teacher import TEACHER, PaletteTeacher, tiny_values

BASE, NOVEL = ("red", "green", "blue", "gray"), ("white", "black")
PALETTE = "tiny_teacher:PaletteTeacher"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))


def _recipe(data: Path, train: str = "instances", teacher: str = PALETTE, **propose: Any) -> Recipe:
    values: Any = tiny_values(str(data), str(data / "instances.json"))
    values["data"]["train"] = {"images": str(data), "annotations": str(data / f"{train}.json")}
    values["split"] = {"base": list(BASE), "novel": list(NOVEL)}
    values["teacher"] = teacher
    values["adapt"] = {"enabled": False}
    values["propose"] = {
        "image_size": [32, 96], "stride": 8, "sides": [8, 24], "ratios": [1.0], "dense_sides": [96], "ranking": "novel",
        "nms": 0.3, "shortlist": 40, "keep": 4, "base_filter": False, "base_overlap": 0.5, "crop_rank": 0.0,
        "dense_reading": "auto", "size_power": "auto", **propose,
    }  # fmt: skip
    return parse_recipe(values, "test")


def _propose(recipe: Recipe, folder: Path) -> ProposeMetrics:
    metrics = run_recipe(recipe, folder, until="propose")["propose"]
    assert isinstance(metrics, ProposeMetrics)
    return metrics


def _assert_same_targets(first: Path, second: Path) -> None:
    one, two = TargetStore(first / "targets"), TargetStore(second / "targets")
    for image_id in range(1, 16):
        assert torch.equal(one[image_id].boxes, two[image_id].boxes)
        assert torch.equal(one[image_id].scores, two[image_id].scores)


def test_auto_takes_the_better_reading_and_the_power_that_finds_whole_objects(data: Path, tmp_path: Path) -> None:
    chosen = _propose(_recipe(data), tmp_path / "auto")
    readings, powers = chosen.reading_table, chosen.power_table
    assert chosen.dense_reading == "self_self" and readings is not None
    assert [row.reading for row in readings] == ["block", "self_self"]
    assert readings[0].accuracy == 0.25 and readings[1].accuracy == 1  # "red" for everything, and the color
    assert chosen.size_power is not None and chosen.size_power > 0 and powers is not None
    assert [row.power for row in powers] == list(POWERS)
    assert powers[0].recall < max(row.recall for row in powers)
    assert chosen.reading_seconds is not None and chosen.power_seconds is not None and chosen.seconds is not None
    assert chosen.seconds >= chosen.reading_seconds + chosen.power_seconds

    fixed = _recipe(data, dense_reading="self_self", size_power=chosen.size_power)
    metrics = _propose(fixed, tmp_path / "fixed")
    assert metrics.reading_table is None and metrics.power_table is None
    assert (metrics.dense_reading, metrics.size_power) == (chosen.dense_reading, chosen.size_power)
    _assert_same_targets(tmp_path / "auto", tmp_path / "fixed")


def test_ties_keep_the_default_reading_and_the_smaller_power() -> None:
    readings = [ReadingScore(reading=name, accuracy=value) for name, value in (("a", 0.3), ("b", 0.4), ("c", 0.4))]
    assert best_reading(readings) == "b"
    assert (
        best_power([PowerScore(power=power, recall=recall) for power, recall in ((0, 0.1), (0.1, 0.2), (0.5, 0.2))])
        == 0.1
    )


def test_interrupted_choice_repeats_only_the_unfinished_measurement(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _propose(_recipe(data), tmp_path / "whole")
    measured: list[str] = []
    accuracy, recall = dense_reading._accuracy, size_power._recall

    def record(teacher: Any, *rest: Any) -> float:
        measured.append(teacher.reading)
        if measured == ["block", "self_self"]:
            raise KeyboardInterrupt
        return accuracy(teacher, *rest)

    def stop(*rest: Any) -> list[float]:
        measured.append("power")
        if measured.count("power") == 1:
            raise KeyboardInterrupt
        return recall(*rest)

    monkeypatch.setattr(dense_reading, "_accuracy", record)
    monkeypatch.setattr(size_power, "_recall", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            _propose(_recipe(data), tmp_path / "stopped")
    resumed = _propose(_recipe(data), tmp_path / "stopped")
    assert measured == ["block", "self_self", "self_self", "power", "power"]
    assert resumed.reading_table == expected.reading_table and resumed.power_table == expected.power_table
    _assert_same_targets(tmp_path / "whole", tmp_path / "stopped")


def _removed(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["category_id"] <= len(BASE)]


def _moved(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for entry in entries:
        if entry["category_id"] > len(BASE):
            entry |= {"bbox": [entry["id"] % 20, 3, 30, 9.0], "category_id": 5 + entry["id"] % 2}
    return entries


def _added(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return entries + [{**entry, "id": 1000 + entry["id"], "category_id": 5} for entry in entries]


@pytest.mark.parametrize("change", [_removed, _moved, _added])
def test_novel_annotations_do_not_change_the_choices(
    change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], data: Path, tmp_path: Path
) -> None:
    content = json.loads((data / "instances.json").read_text())
    content["annotations"] = change(content["annotations"])
    (data / "altered.json").write_text(json.dumps(content))
    one = _propose(_recipe(data), tmp_path / "original")
    two = _propose(_recipe(data, train="altered"), tmp_path / "altered")
    assert one.reading_table == two.reading_table is not None and one.power_table == two.power_table is not None
    assert (one.dense_reading, one.size_power) == (two.dense_reading, two.size_power)
    _assert_same_targets(tmp_path / "original", tmp_path / "altered")


def test_novel_boxes_in_memory_do_not_change_the_choices(data: Path, tmp_path: Path) -> None:
    recipe, part = _recipe(data), Part(images=data, annotations=data / "instances.json")
    split = load_split(recipe.split, part.annotations)

    def propose(names: tuple[str, ...]) -> ProposeMetrics:
        context = RunContext(recipe, split, RunFolder(tmp_path / str(len(names))), "cpu")
        return run_propose(context, load_images(part, names), PaletteTeacher())

    one, two = propose(split.base), propose(split.names)
    assert one.reading_table == two.reading_table is not None and one.power_table == two.power_table is not None
    _assert_same_targets(tmp_path / str(len(split.base)), tmp_path / str(len(split.names)))


def test_too_few_base_names_keep_the_defaults(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = _recipe(data)
    recipe = recipe.model_copy(update={"split": {"base": BASE[:3], "novel": NOVEL}})
    metrics = _propose(recipe, tmp_path / "run")
    assert (metrics.dense_reading, metrics.size_power) == ("block", 0.1)
    assert metrics.reading_table is None and metrics.power_table is None
    for key in ("propose.dense_reading", "propose.size_power"):
        assert any(key in record.message and "at least 4 base names" in record.message for record in caplog.records)


def test_nothing_is_measured_where_nothing_can_be_chosen(data: Path, tmp_path: Path) -> None:
    metrics = _propose(_recipe(data, teacher=TEACHER, ranking="entropy"), tmp_path / "run")
    assert (metrics.dense_reading, metrics.size_power) == ("block", 0.1)
    assert metrics.reading_table is None and metrics.power_table is None


def test_reading_that_the_teacher_does_not_have_is_refused_before_the_work(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has no reading value. Set it to block or self_self"):
        run_recipe(_recipe(data, dense_reading="value"), tmp_path / "run", until="adapt")
    with pytest.raises(RecipeError, match="propose.dense_reading"):
        _recipe(data, dense_reading="unknown")


def test_images_are_balanced_over_names(data: Path) -> None:
    content = json.loads((data / "instances.json").read_text())
    content["annotations"] = [
        entry for entry in content["annotations"] if entry["category_id"] != 1 or entry["image_id"] > 6
    ]
    (data / "rare.json").write_text(json.dumps(content))
    images = load_images(Part(images=data, annotations=data / "rare.json"), (*BASE, *NOVEL))
    chosen = balanced_images(images, BASE, 0, 4, seed=0)
    assert len(chosen) == 4 and {int(label) for image in chosen for label in image.labels} == {1, 2, 3, 4}
    assert len(balanced_images(images, BASE, 0, 100, seed=0)) <= len(images)
    assert balanced_images(images, BASE, 30, 4, seed=0) == []  # all boxes are smaller
