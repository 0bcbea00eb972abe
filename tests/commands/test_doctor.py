"""Tests of ``ezsd doctor``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torchvision.ops
from typer.testing import CliRunner

from ezsd.cli import app
from ezsd.commands.doctor import examine

Usage = namedtuple("Usage", "total used free")


def test_json_has_all_sections_and_no_stopping_problem() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["versions"]["ezsd"] and "threads" in found["devices"]["cpu"]
    assert found["operators"] == {"torchvision": "nms and roi_align work"}
    assert {"offline", "pocket"} <= set(found["extras"])
    assert not any(problem["stops"] for problem in found["problems"])


def test_text_lists_every_section() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("torchvision", "shared memory", "pocket"))
    assert "'ezsd'" not in " ".join(result.stdout.split())  # the name of an extra is not taken for markup


def test_broken_operators_exit_with_1_and_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", broken)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    text = " ".join(result.stdout.split())
    assert "torchvision::nms does not exist" in text and "pip install" in text


def test_torch_that_cannot_be_imported_is_a_problem_that_stops(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so not found')")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    command = [sys.executable, "-m", "ezsd", "doctor", "--json"]
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    found = json.loads(result.stdout)
    assert any("libcudart.so not found" in problem["what"] and problem["stops"] for problem in found["problems"])
    assert "cannot be loaded" in found["teachers"]["offline"]


def test_low_disk_and_shared_memory_are_problems_that_do_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64e6, 0, 1e9))
    problems = examine()["problems"]
    assert any("only 1.0 GB are free" in problem["what"] for problem in problems)
    assert any("shared memory" in problem["what"] and "data.workers: 0" in problem["do"] for problem in problems)
    assert not any(problem["stops"] for problem in problems)
