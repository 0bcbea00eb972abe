"""The benchmark of speed measures the plain detector and ours, in PyTorch and exported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import speed
from ezsd.recipe import parse_recipe, save_recipe
from tiny_teacher import tiny_values


def test_inference_is_measured_in_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    save_recipe(parse_recipe(tiny_values("images", "boxes.json"), "test"), tmp_path / "recipe.yaml")
    file = tmp_path / "rows.json"
    arguments = ["--part", "inference", "--batches", "1", "2", "--names", "3", "2000", "--rounds", "1", "--dim", "16"]
    monkeypatch.setattr(sys, "argv", ["speed.py", str(tmp_path / "recipe.yaml"), *arguments, "--json", str(file)])
    speed.main()
    rows = json.loads(file.read_text())
    assert [(row["batch"], row["detector"]) for row in rows] == [
        (batch, name)
        for batch in (1, 2)
        for name in ("plain", "ours, 3 names", "ours, 2,000 names", "ours, ONNX, 3 names", "ours, ONNX, 2,000 names")
    ]
    assert rows[0]["x plain"] == "1.00" and all(row["ms"] > 0 for row in rows)


def test_a_profile_has_the_shares_of_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_recipe(parse_recipe(tiny_values("images", "boxes.json"), "test"), tmp_path / "recipe.yaml")
    file = tmp_path / "rows.json"
    for part in ("training", "inference"):
        arguments = ["--part", part, "--profile", "--batches", "1", "--names", "3", "--dim", "16", "--json", str(file)]
        monkeypatch.setattr(sys, "argv", ["speed.py", str(tmp_path / "recipe.yaml"), *arguments])
        speed.main()
        rows = [row for row in json.loads(file.read_text()) if row.get("what") != "plain"]
        assert abs(sum(row["%"] for row in rows) - 100) < 0.1 and any("conv" in row["operator"] for row in rows)
