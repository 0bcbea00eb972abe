"""Tests of the benchmark of semantic regression."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

import guidance
from ezsd.data.formats.coco import load_images
from ezsd.detector.model_folder import load_model
from ezsd.recipe import save_recipe
from tiny import SPLIT, TinyCoco
from tiny_run import make_model_folder, make_recipe


@given(st.integers(0, 300))
def test_regions_are_in_the_image_and_near_their_object(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(5, 2, generator=generator) * torch.tensor([90.0, 60])
    objects = torch.cat([corner, corner + 4 + 30 * torch.rand(5, 2, generator=generator)], dim=1)
    objects = objects.minimum(torch.tensor([120.0, 80, 120, 80]))
    regions, places = guidance.regions_near(objects, 8, 0.15, (80, 120), generator)
    assert 0 < len(regions) <= 40
    overlap = box_iou(regions, objects[places]).diagonal()
    assert ((overlap > 0.4) & (overlap < 0.9)).all()
    assert (regions >= 0).all() and (regions <= torch.tensor([120.0, 80, 120, 80])).all()


def test_boxes_depend_on_the_name_only_with_semantic_regression(
    tmp_path: Path, tiny_coco: Callable[..., TinyCoco]
) -> None:
    images = load_images(tiny_coco(tmp_path / "data").part(), SPLIT.names)
    model, _, text = load_model(make_model_folder(tmp_path / "model"))
    objects = sum(int((~image.crowd).sum()) for image in images)

    def overlaps() -> torch.Tensor:
        found = list(guidance.guided(model, images, text, 4, 0.15))
        assert all(len(labels) == len(ious) for labels, ious in found)
        return torch.cat([ious for _, ious in found])

    unguided = overlaps()
    assert objects < len(unguided) <= 4 * objects
    assert torch.equal(unguided[:, 1], unguided[:, 2]) and torch.equal(unguided[:, 2], unguided[:, 3])
    guided, output = model.roi_heads.box_head.to_deltas[0][0], model.roi_heads.box_head.to_deltas[-1]
    with torch.no_grad():
        guided.weight.normal_()
        output.weight.normal_(std=0.1)
    regressed = overlaps()
    assert torch.equal(regressed[:, 0], unguided[:, 0])
    assert not torch.allclose(regressed[:, 1], regressed[:, 2]) and not torch.allclose(regressed[:, 1], regressed[:, 3])


def test_output_has_one_line_for_base_and_one_for_novel_objects(
    tmp_path: Path,
    tiny_coco: Callable[..., TinyCoco],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_model_folder(tmp_path / "run" / "train" / "model")
    save_recipe(make_recipe(tiny_coco(tmp_path / "data")), tmp_path / "run" / "recipe.yaml")
    monkeypatch.setattr(sys, "argv", ["guidance.py", str(tmp_path / "run")])
    guidance.main()
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [line[1] for line in lines[2:]] == ["base", "novel"] and all(len(line) == 7 for line in lines)
