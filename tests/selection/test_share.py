"""adapt.share: auto chooses the share of the norm shift by leaving base names out, without novel boxes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ezsd.pipeline.run import run_recipe
from ezsd.recipe import Recipe, parse_recipe
from ezsd.run_metrics import AdaptMetrics, ShareScore
from ezsd.selection import share as selection
from ezsd.selection.share import CAUTIOUS_SHARE, SHARES, best_share, name_folds, score
from ezsd.utils.files import read_tensors
from tiny_teacher import tiny_values

BASE = ("red", "green", "blue", "gray")
NOVEL = ("white", "black")
IMAGES = 15


def _recipe(data: Path, share: float | str = "auto", base: tuple[str, ...] = BASE, train: str = "instances") -> Recipe:
    values: Any = tiny_values(str(data), str(data / "instances.json"))
    values["data"]["train"] = {"images": str(data), "annotations": str(data / f"{train}.json")}
    values["split"] = {"base": list(base), "novel": list(NOVEL)}
    values["adapt"] = {"epochs": 40, "batch_size": 8, "lr": 0.05, "clip_norm": 1.0, "share": share}
    return parse_recipe(values, "test")


def _adapt(recipe: Recipe, folder: Path) -> AdaptMetrics:
    metrics = run_recipe(recipe, folder, until="adapt")["adapt"]
    assert isinstance(metrics, AdaptMetrics)
    return metrics


def _assert_same_norms(first: Path, second: Path) -> None:
    one, two = (read_tensors(folder / "adapt/norms.safetensors")[0] for folder in (first, second))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_each_name_is_left_out_once_and_folds_are_balanced() -> None:
    boxes = {"a": 100, "b": 60, "c": 50, "d": 10, "e": 9, "f": 1}
    folds = name_folds(boxes, 2)
    assert sorted(name for fold in folds for name in fold.left_out) == sorted(boxes)
    for fold in folds:
        assert sorted(fold.left_out + fold.kept) == sorted(boxes) and len(fold.left_out) == 3
        assert 110 <= sum(boxes[name] for name in fold.left_out) <= 120
    assert name_folds({"a": 5, "b": 5, "c": 5}) == []


def test_best_share_balances_both_groups_and_prefers_small_shares() -> None:
    def row(share: float, left_out: float, kept: float) -> ShareScore:
        return ShareScore(share=share, left_out=left_out, kept=kept, score=score(left_out, kept))

    assert best_share([row(0, 0.4, 0.3), row(0.25, 0.38, 0.4), row(1, 0.05, 0.9)]) == 0.25
    assert best_share([row(0.25, 0.4, 0.4), row(1, 0.4, 0.4)]) == 0.25
    assert best_share([row(0.25, 0.2, 0.2), row(1, 0.3, 0.6)]) == 1
    assert best_share([row(0, 0.9, 0.9), row(0.25, 0.3, 0.3), row(1, 0.2, 0.2)]) == 0.25


def test_auto_is_the_adaptation_with_the_chosen_share(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "best_share", lambda table: 0.5)
    chosen = _adapt(_recipe(data), tmp_path / "auto")
    assert chosen.share == 0.5 and chosen.share_table is not None
    assert [row.share for row in chosen.share_table] == list(SHARES)
    _adapt(_recipe(data, 0.5), tmp_path / "fixed")
    _assert_same_norms(tmp_path / "auto", tmp_path / "fixed")
    assert not (tmp_path / "auto/adapt/folds").exists()


def test_kept_names_gain_with_the_share(data: Path, tmp_path: Path) -> None:
    table = _adapt(_recipe(data), tmp_path / "run").share_table
    assert table is not None and table[-1].kept > table[0].kept


def test_boxes_of_left_out_names_and_held_out_images_are_not_trained_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    train_norms = selection.train_norms

    def record(teacher: Any, batches: Any, split: Any, *rest: Any) -> Any:
        trained.append((split, batches))
        return train_norms(teacher, batches, split, *rest)

    monkeypatch.setattr(selection, "train_norms", record)
    _adapt(_recipe(data), tmp_path / "run")
    content = json.loads((data / "instances.json").read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    entries = [entry for entry in content["annotations"] if entry["image_id"] % 5]  # each fifth image is held out
    assert sorted(name for split, _ in trained for name in split.novel) == sorted(BASE)
    for split, batches in trained:
        assert len(batches.images) == IMAGES * 4 // 5
        assert len(batches.labels) == sum(names[entry["category_id"]] in split.base for entry in entries)


def test_interrupted_selection_repeats_only_the_fold_it_was_in(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _adapt(_recipe(data), tmp_path / "whole")
    train_norms, trained = selection.train_norms, []

    def stop_at_second(teacher: Any, batches: Any, split: Any, *rest: Any) -> Any:
        trained.append(split.novel)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train_norms(teacher, batches, split, *rest)

    monkeypatch.setattr(selection, "train_norms", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        _adapt(_recipe(data), tmp_path / "stopped")
    resumed = _adapt(_recipe(data), tmp_path / "stopped")
    assert trained[1] == trained[2] and len(set(trained)) == len(trained) - 1
    assert resumed.share_table == expected.share_table and resumed.share == expected.share
    _assert_same_norms(tmp_path / "whole", tmp_path / "stopped")


def _removed(entries: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["category_id"] <= len(BASE)]


def _moved(entries: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    for entry in entries:
        if entry["category_id"] > len(BASE):
            entry["bbox"] = [chance.random() * 20, chance.random() * 8, 5 + chance.random() * 30, 9.0]
            entry["category_id"] = chance.choice([5, 6])
    return entries


def _added(entries: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    return entries + [{**entry, "id": 1000 + entry["id"], "category_id": 5} for entry in entries]


@pytest.mark.parametrize("change", [_removed, _moved, _added])
def test_novel_annotations_do_not_change_the_choice(
    change: Callable[..., list[dict[str, Any]]], data: Path, tmp_path: Path
) -> None:
    content = json.loads((data / "instances.json").read_text())
    content["annotations"] = change(content["annotations"], random.Random(7))
    (data / "altered.json").write_text(json.dumps(content))
    one = _adapt(_recipe(data), tmp_path / "original")
    two = _adapt(_recipe(data, train="altered"), tmp_path / "altered")
    assert one.share_table == two.share_table is not None and one.share == two.share
    _assert_same_norms(tmp_path / "original", tmp_path / "altered")


def test_too_few_base_names_give_a_cautious_share(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = _adapt(_recipe(data, base=BASE[:3]), tmp_path / "run")
    assert metrics.share == CAUTIOUS_SHARE and metrics.share_table is None
    assert any("adapt.share" in record.message for record in caplog.records)
