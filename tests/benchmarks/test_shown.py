"""Search by example is measured with boxes of train images in place of all names."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from ezsd.data.formats.coco import load_images
from ezsd.pipeline.run import run_recipe
from ezsd.recipe import load_recipe
from shown import example_boxes, examples_table
from tiny import SPLIT, make_tiny_coco
from tiny_teacher import tiny_values


def test_examples_are_boxes_of_several_images(tmp_path: Path) -> None:
    train = load_images(make_tiny_coco(tmp_path).part(), SPLIT.names)
    few, more = example_boxes(train, 1), example_boxes(train, 5)
    assert set(few) == set(more) and all(pairs[:1] == few[name] for name, pairs in more.items())
    for name, pairs in more.items():
        assert len({path for path, _ in pairs}) == len(pairs) <= 5
        own = {str(image.path): (image.boxes.tolist(), image.labels.tolist()) for image in train}
        for path, box in pairs:
            boxes, labels = own[path]
            assert SPLIT.names[labels[boxes.index(box)] - 1] == name


def test_a_finished_run_gives_a_row_for_names_and_for_each_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    coco = make_tiny_coco(tmp_path / "data")
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny_values(str(coco.images), str(coco.annotations))))
    run_recipe(load_recipe(str(recipe)), tmp_path / "run", "evaluate")
    table = examples_table(argparse.Namespace(run=tmp_path / "run", images=4, examples=[1, 5]))
    with (console := Console(width=120)).capture() as text:
        console.print(table)
    assert table.row_count == 3 and all(row in text.get() for row in ("1 of their boxes", "5 of their boxes"))
