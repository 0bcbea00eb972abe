"""The benchmark of folders writes the same drawings in both ways, and compares images/s."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from detect_folder import command, loop, table
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
