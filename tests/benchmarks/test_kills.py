"""The benchmark of kills interrupts a run, resumes it, and compares the results."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

import kills
from tiny import make_tiny_coco
from tiny_teacher import tiny_values


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_runs_have_the_results_of_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco, recipe, file = make_tiny_coco(tmp_path / "data"), tmp_path / "tiny.yaml", tmp_path / "rows.json"
    recipe.write_text(yaml.safe_dump(tiny_values(str(coco.images), str(coco.annotations))))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # includes the folder of tiny_teacher
    arguments = [str(recipe), "--out", str(tmp_path / "runs"), "--kills", "3", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["kills.py", *arguments])
    kills.main()
    rows = json.loads(file.read_text())
    assert [row["kill"] for row in rows] == [1, 2, 3]
    assert all(row["lost s"] >= 0 for row in rows)
