"""The benchmark of mining: the published way crops as ezsd does, and all ways are compared on the same images."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import mining
from ezsd.recipe import parse_recipe, save_recipe
from ezsd.teacher.regions import crop_regions
from tiny import TinyCoco
from tiny_teacher import tiny_values


def test_pillow_crops_are_near_the_batched_ones() -> None:
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 6), (64, 96), mode="bicubic")[0].clamp(0, 1)
    pixels = (smooth * 255).byte()
    boxes = torch.tensor([[8.0, 8.0, 56.0, 40.0], [80.0, 10.0, 92.0, 58.0]])
    (crops,) = mining.pillow_batches(Image.fromarray(pixels.permute(1, 2, 0).numpy()), boxes, 16)
    ours = crop_regions(pixels, boxes, 16)
    assert crops.shape == ours.shape and (crops - ours).abs().mean() < 0.05
    outside = ours[1, :, :, -1]  # the second box is near the right side of the image
    assert (outside == 0).all() and (crops[1, :, :, -1] < 0.05).all()


def test_ways_are_compared(tmp_path: Path, tiny_coco: Callable[..., TinyCoco], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    coco = tiny_coco(tmp_path / "data")
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    values["propose"]["dense_sides"] = [64, 96]
    save_recipe(parse_recipe(values, "test"), tmp_path / "recipe.yaml")
    file = tmp_path / "rows.json"
    arguments = ["mining.py", str(tmp_path / "recipe.yaml"), "--images", "2", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", arguments)
    mining.main()
    rows = json.loads(file.read_text())
    assert [row["way"].split(", ")[1] for row in rows] == ["64 + 96 px", "64 px", "as published"]
    assert rows[-1]["times faster"] == 1.0
    assert all(0 <= row["novel recall@100"] <= row["novel recall@300"] <= 1 for row in rows)
    assert rows[1]["teacher GFLOPs an image"] <= rows[0]["teacher GFLOPs an image"]
