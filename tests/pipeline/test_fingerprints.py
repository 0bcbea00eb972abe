"""Which changes make a stage run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ezsd.data.categories import load_split
from ezsd.pipeline.fingerprints import Inputs, differences, fingerprint, stage_inputs
from ezsd.recipe import Recipe, parse_recipe
from tiny import TinyCoco, make_tiny_coco
from tiny_run import make_model_folder
from tiny_teacher import tiny_values


@pytest.fixture
def coco(tmp_path: Path) -> TinyCoco:
    return make_tiny_coco(tmp_path / "data")


def _recipe(coco: TinyCoco, **changes: Any) -> Recipe:
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section] = {**values.get(section, {}), name: value} if name else value
    return parse_recipe(values, "test")


def _inputs(recipe: Recipe) -> dict[str, Inputs]:
    return stage_inputs(recipe, load_split(recipe.split))


def _changed(before: dict[str, Inputs], now: dict[str, Inputs]) -> list[str]:
    return [stage for stage in before if fingerprint(before[stage]) != fingerprint(now[stage])]


@pytest.mark.parametrize(
    "changes, again",
    [
        ({"seed": 1}, "adapt propose train evaluate"),
        ({"prompt": "the {name}"}, "adapt propose train evaluate"),
        ({"teacher": "offline"}, "adapt propose train evaluate"),
        ({"split": {"base": ["circle"], "novel": ["bar"]}}, "adapt propose train evaluate"),
        ({"adapt__lr": 0.5}, "adapt propose train evaluate"),
        ({"adapt__share": 0.5}, "adapt propose train evaluate"),
        ({"adapt__share": "auto"}, "adapt propose train evaluate"),
        ({"adapt__share": 1.0}, ""),
        ({"propose__keep": 3}, "propose train evaluate"),
        ({"propose__dense_reading": "value"}, "propose train evaluate"),
        ({"propose__size_power": "auto"}, "propose train evaluate"),
        ({"detector__nms": 0.3}, "train evaluate"),
        ({"train__lr": 0.5}, "train evaluate"),
        ({"train__ema": 0.5}, "train evaluate"),
        ({"train__validate_steps": 5}, "train evaluate"),
        ({"train__validate_images": 5}, ""),
        ({"train__patience": 5}, ""),
        ({"evaluate__proposals": False}, "evaluate"),
        ({"evaluate__second_opinion": "dense"}, "evaluate"),
        ({"data__workers": 1}, ""),
        ({"train__checkpoint_steps": 7}, ""),
        ({"propose__batch_size": 7}, ""),
        ({"evaluate__batch_size": 7}, ""),
    ],
)
def test_setting_affects_its_stage_and_later_stages(coco: TinyCoco, changes: dict[str, Any], again: str) -> None:
    assert _changed(_inputs(_recipe(coco)), _inputs(_recipe(coco, **changes))) == again.split()


@pytest.mark.parametrize(
    "changes, again",
    [
        ({"propose__rpn_epochs": 3}, "propose train evaluate"),
        ({"propose__keep": 3}, "propose train evaluate"),
        ({"detector__fpn_channels": 16}, "propose train evaluate"),
        ({"train__lr": 0.5}, "propose train evaluate"),
        ({"train__scale_jitter": [0.5, 1.0]}, "propose train evaluate"),
        ({"train__validate_steps": 5}, "train evaluate"),
        ({"detector__nms": 0.3}, "train evaluate"),
        ({"detector__semantic_regression": False}, "train evaluate"),
        ({"train__epochs": 3}, "train evaluate"),
        ({"train__ignore_top": 3}, "train evaluate"),
        ({"train__novel_rivals": True}, "train evaluate"),
        ({"train__background_share": 0.5}, "train evaluate"),
        ({"train__checkpoint_steps": 7}, ""),
    ],
)
def test_rpn_regions_depend_on_the_training_settings_of_the_rpn(
    coco: TinyCoco, changes: dict[str, Any], again: str
) -> None:
    before, now = (_recipe(coco, propose__scoring="rpn", **more) for more in ({}, changes))
    assert _changed(_inputs(before), _inputs(now)) == again.split()


def test_rpn_settings_affect_only_rpn_scoring(coco: TinyCoco) -> None:
    assert _changed(_inputs(_recipe(coco)), _inputs(_recipe(coco, propose__rpn_epochs=3))) == []
    before, now = (_recipe(coco, propose__scoring="rpn", propose__ranking=ranking) for ranking in ("novel", "entropy"))
    assert _changed(_inputs(before), _inputs(now)) == []


def test_proposals_affect_the_training_only_if_it_uses_them(coco: TinyCoco) -> None:
    plain = {"train__distillation_weight": 0.0}
    before, now = _recipe(coco, **plain), _recipe(coco, **plain, propose__keep=3)
    assert _changed(_inputs(before), _inputs(now)) == ["propose", "evaluate"]


def test_settings_of_a_disabled_stage_have_no_effect(coco: TinyCoco) -> None:
    before, now = _recipe(coco, adapt__enabled=False), _recipe(coco, adapt={"enabled": False, "lr": 9.0})
    assert _changed(_inputs(before), _inputs(now)) == []


def test_changed_boxes_and_images_are_detected(coco: TinyCoco) -> None:
    recipe = _recipe(coco)
    before = _inputs(recipe)
    image = next(coco.images.iterdir())
    image.write_bytes(image.read_bytes() + b" ")
    changed_image = _inputs(recipe)
    assert _changed(before, changed_image) == ["adapt", "propose", "train", "evaluate"]
    coco.content["annotations"].pop()
    coco.save()
    assert _changed(changed_image, _inputs(recipe)) == ["adapt", "propose", "train", "evaluate"]


@pytest.mark.parametrize(("steps", "again"), [(0, "adapt evaluate"), (5, "adapt train evaluate")])
def test_val_part_affects_only_stages_that_measure_on_it(
    coco: TinyCoco, tmp_path: Path, steps: int, again: str
) -> None:
    other = tmp_path / "val.json"
    other.write_text(json.dumps(coco.content))
    part = {"images": str(coco.images), "annotations": str(coco.annotations)}
    data = {"train": part, "val": {**part, "annotations": str(other)}}
    recipe = _recipe(coco, data=data, train__validate_steps=steps)
    before = _inputs(recipe)
    coco.content["annotations"].pop()
    other.write_text(json.dumps(coco.content))
    assert _changed(before, _inputs(recipe)) == again.split()


def test_moved_data_gives_the_same_inputs(coco: TinyCoco, tmp_path: Path) -> None:
    before = _inputs(_recipe(coco))
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere"
    there = TinyCoco(moved / "images", moved / "instances.json", coco.content)
    (there.images / "unused.jpg").touch()
    assert _changed(before, _inputs(_recipe(there))) == []


def test_changed_teacher_checkpoint_is_detected(coco: TinyCoco, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"1")
    recipe = _recipe(coco, teacher=f"open_clip:ViT-B-32/{weights}")
    before = _inputs(recipe)
    weights.write_bytes(b"2")
    assert len(_changed(before, _inputs(recipe))) == 4


def test_changed_initial_weights_are_detected_and_a_moved_folder_is_not(coco: TinyCoco, tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "model")
    plain, started = _inputs(_recipe(coco)), _inputs(_recipe(coco, detector__start_from=str(folder)))
    assert _changed(plain, started) == ["train", "evaluate"]
    folder.rename(tmp_path / "moved")
    moved = _recipe(coco, detector__start_from=str(tmp_path / "moved"), propose__scoring="rpn")
    before = _inputs(moved)
    assert before["train"]["detector.start_from"] == started["train"]["detector.start_from"]
    make_model_folder(tmp_path / "moved", seed=1)
    assert _changed(before, _inputs(moved)) == ["train", "evaluate"]


def test_new_keys_with_their_defaults_do_not_change_earlier_runs(coco: TinyCoco) -> None:
    assert "detector.start_from" not in _inputs(_recipe(coco))["train"]


def test_differences_are_listed_by_recipe_key() -> None:
    before = {"train.lr": 0.1, "data.train.images": "sha256:1", "seed": 0, "split.base": ["a"] * 100}
    now = {"train.lr": 0.2, "data.train.images": "sha256:2", "seed": 0, "split.base": ["a"], "train.flip": 0.5}
    expected = differences(before, now)
    assert "train.lr was 0.1, is now 0.2" in expected
    assert "data.train.images: the content has changed" in expected
    assert "train.flip was null, is now 0.5" in expected
    assert len(expected) == 4
    assert max(map(len, expected)) < 160


def test_a_dense_second_opinion_depends_on_how_the_teacher_reads(coco: TinyCoco) -> None:
    plain = {"train__distillation_weight": 0.0, "evaluate__proposals": False}
    for opinion, again in (("dense", ["propose", "evaluate"]), ("crops", ["propose"])):
        changes = {**plain, "evaluate__second_opinion": opinion}
        before, now = (_inputs(_recipe(coco, **changes, propose__dense_sides=sides)) for sides in ([64], [96]))
        assert _changed(before, now) == again
