"""The benchmark of folders writes the same drawings in both ways, and compares images/s."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import detect_folder
import ezsd
from detect_folder import command, loop, table, versions
from ezsd.inference.detector import Detector
from tiny_run import make_model_folder


def test_the_loop_and_the_command_draw_every_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (64, 48), (120, 90, 40)).save(tmp_path / f"{name}.png")
    detector = Detector.load(make_model_folder(tmp_path / "model"))
    images = [tmp_path / "a.png", tmp_path / "b.png"]
    for way, folder in ((loop, tmp_path / "one"), (command, tmp_path / "two")):
        folder.mkdir()
        way(detector, images, folder)
        assert len(list(folder.glob("*.jpg"))) == 2


def test_rates_are_compared_with_the_first_one() -> None:
    rows = table({"loop": 2.0, "command": 3.0}).splitlines()[2:]
    assert rows == ["| loop | 2.00 | 1.00 |", "| command | 3.00 | 1.50 |"]


def test_versions_are_compared_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_folder, "_ROUNDS", 1)
    monkeypatch.setattr(detect_folder, "_FEW", 1)
    for name in ("a", "b"):
        Image.new("RGB", (64, 48), (120, 90, 40)).save(tmp_path / f"{name}.png")
    model = make_model_folder(tmp_path / "model")
    rates = versions(Path(ezsd.__file__).parents[1], (str(model),), [tmp_path / "a.png", tmp_path / "b.png"])
    assert list(rates) == ["ezsd detect, other version", "ezsd detect"]
