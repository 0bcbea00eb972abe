from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ezsd.data.formats.coco import load_images
from ezsd.data.samples import AnnotatedImage, ImageSet, read_image
from ezsd.data.target_store import TargetStore
from ezsd.pipeline.context import RunContext
from ezsd.pipeline.propose import run_propose
from ezsd.proposals.candidates import lie_on
from ezsd.proposals.proposer import Proposer
from ezsd.recipe import ProposeConfig, Recipe, parse_recipe
from ezsd.run_folder import RunFolder
from ezsd.selection import common
from ezsd.teacher.regions import crop_regions
from tiny import EMPTY_IMAGE, SPLIT, TinyCoco
from tiny_teacher import ColourTeacher, tiny_values

PROMPT = "a photo of a {name}"
SETTINGS = ProposeConfig(
    image_size=(64, 96), stride=16, sides=(16, 32), ratios=(0.5, 1.0, 2.0), dense_sides=(96,), shortlist=60, keep=12,
    base_filter=False, batch_size=32, shard_images=3,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny(tmp_path: Path, tiny_coco: Callable[..., TinyCoco]) -> TinyCoco:
    return tiny_coco(tmp_path / "data")


def _run(images: ImageSet, folder: Path, settings: ProposeConfig = SETTINGS) -> TargetStore:
    run_propose(RunContext(_recipe(settings), SPLIT, RunFolder(folder), "cpu"), images, ColourTeacher())
    return TargetStore(folder / "targets")


def _recipe(settings: ProposeConfig) -> Recipe:
    recipe = parse_recipe(tiny_values("images", "annotations.json"), "test")
    return recipe.model_copy(update={"propose": settings, "prompt": PROMPT})


def test_each_image_gets_proposals_and_base_boxes_with_crop_embeddings(tiny: TinyCoco, tmp_path: Path) -> None:
    images = load_images(tiny.part(), SPLIT.base)
    store = _run(images, tmp_path / "targets")
    assert store.damaged() == []
    teacher = ColourTeacher()
    for image in images:
        regions = store[image.image_id]
        proposals, base = ~regions.is_base_box, regions.is_base_box
        assert 0 < int(proposals.sum()) <= 12
        assert torch.equal(regions.boxes[base], image.boxes[~image.crowd])
        assert torch.equal(regions.labels[base], image.labels[~image.crowd])
        assert bool((regions.weights[base] == 1).all())
        scores = regions.scores[proposals]
        assert torch.equal(scores, scores.sort(descending=True).values)
        crops = crop_regions(read_image(image), regions.boxes, 16)
        torch.testing.assert_close(regions.embeddings.float(), teacher.encode_crops(crops), atol=2e-3, rtol=0)
        text = teacher.encode_names([PROMPT.format(name=name) for name in SPLIT.names])
        weights, names = (10 * teacher.encode_crops(crops[proposals]) @ text.T).softmax(1).max(1)
        torch.testing.assert_close(regions.weights[proposals], weights, atol=1e-4, rtol=0)
        assert torch.equal(regions.labels[proposals], names + 1)
    assert not store[EMPTY_IMAGE].is_base_box.any()


@pytest.mark.parametrize("changes", [{}, {"ranking": "novel", "keep": 3, "size_power": "auto"}])
def test_novel_boxes_do_not_change_the_targets(
    changes: dict[str, object], tiny: TinyCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "FEWEST_NAMES", 2)
    monkeypatch.setattr(common, "FEWEST_BOXES", 1)
    settings, folders = SETTINGS.model_copy(update=changes), [tmp_path / "known", tmp_path / "unknown"]
    known = _run(load_images(tiny.part(), SPLIT.names), folders[0], settings)
    unknown = _run(load_images(tiny.part(), SPLIT.base), folders[1], settings)
    for image_id in (4, 8, 11, 57):
        assert torch.equal(known[image_id].boxes, unknown[image_id].boxes)
    tables = [json.loads((folder / "targets/metrics.json").read_text()).get("power_table") for folder in folders]
    assert tables[0] == tables[1] and (tables[0] is not None) == ("size_power" in changes)


@pytest.mark.parametrize("scoring", ["dense", "exhaustive", "rpn"])
def test_proposals_do_not_overlap_base_boxes(tiny: TinyCoco, tmp_path: Path, scoring: str) -> None:
    images = load_images(tiny.part(), SPLIT.base)
    on_base = {}
    for overlap in (1.0, 0.5):
        chosen = SETTINGS.model_copy(update={"scoring": scoring, "base_overlap": overlap, "rpn_epochs": 2.0})
        store = _run(images, tmp_path / str(overlap), chosen)
        found = [(store[image.image_id], image.boxes[~image.crowd]) for image in images]
        proposals = [(regions.boxes[~regions.is_base_box], boxes) for regions, boxes in found]
        assert all(len(boxes) for boxes, _ in proposals)
        on_base[overlap] = sum(int(lie_on(boxes, base, 0.5).sum()) for boxes, base in proposals)
    assert on_base[1.0] > 0 and on_base[0.5] == 0


@pytest.mark.parametrize("changes", [{}, {"objectness": 1.0, "rpn_epochs": 1.0}, {"scoring": "rpn"}])
def test_base_object_that_fills_the_image_excludes_all_proposals(
    tiny: TinyCoco, tmp_path: Path, changes: dict[str, object]
) -> None:
    images = load_images(tiny.part(limit=1), SPLIT.base)
    image = images[0]
    image.boxes[0] = torch.tensor([0.0, 0, image.width, image.height])
    regions = _run(images, tmp_path, SETTINGS.model_copy(update={"base_overlap": 0.5, **changes}))[image.image_id]
    assert len(regions) and bool(regions.is_base_box.all())


def test_only_missing_shards_are_made_again(tiny: TinyCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, folder = load_images(tiny.part(), SPLIT.base), tmp_path / "targets"
    before = {entry.image_id: entry for entry in images}
    complete = _run(images, folder)
    expected = {image_id: complete[image_id] for image_id in before}
    (folder / "targets/index.json").unlink()
    (folder / "targets/shard-00001.arrow").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in (folder / "targets").glob("*.arrow")}
    made: list[int] = []
    real = Proposer.propose_and_count

    def recorded(self: Proposer, chosen: list[AnnotatedImage]) -> object:
        made.extend(image.image_id for image in chosen)
        return real(self, chosen)

    monkeypatch.setattr(Proposer, "propose_and_count", recorded)
    again = _run(images, folder)
    assert made == sorted(before)[3:6]
    assert all((folder / "targets" / name).stat().st_mtime_ns == stamp for name, stamp in times.items())
    for image_id, regions in expected.items():
        assert torch.equal(again[image_id].embeddings, regions.embeddings)


def test_changed_settings_or_boxes_rewrite_the_shards(tiny: TinyCoco, tmp_path: Path) -> None:
    images, folder = load_images(tiny.part(), SPLIT.base), tmp_path / "targets"
    _run(images, folder)
    fewer = _run(images, folder, SETTINGS.model_copy(update={"keep": 3}))
    assert all(int((~fewer[image.image_id].is_base_box).sum()) <= 3 for image in images)
    images[0].boxes[0, 0] += 1
    moved = _run(images, folder, SETTINGS.model_copy(update={"keep": 3}))[images[0].image_id]
    assert torch.equal(moved.boxes[moved.is_base_box][0], images[0].boxes[0])
    assert len(_run(images, folder, SETTINGS.model_copy(update={"shard_images": 8}))) == 8
    assert [path.name for path in (folder / "targets").glob("*.arrow")] == ["shard-00000.arrow"]


@pytest.mark.parametrize("scoring", ["dense", "exhaustive"])
def test_metrics_count_the_actual_teacher_passes(tiny: TinyCoco, tmp_path: Path, scoring: str) -> None:
    images, passes = load_images(tiny.part(), SPLIT.base), []

    class Counting(ColourTeacher):
        def encode_crops(self, crops: Tensor) -> Tensor:
            passes.append(len(crops))
            return super().encode_crops(crops)

        def dense_embeddings(self, pixels: Tensor, boxes: Tensor, sides: object) -> Tensor:
            return torch.nn.functional.normalize(torch.rand(len(boxes), 16, generator=torch.Generator()), dim=1)

    chosen = SETTINGS.model_copy(update={"scoring": scoring})
    context = RunContext(_recipe(chosen), SPLIT, RunFolder(tmp_path), "cpu")
    metrics = run_propose(context, images, Counting()).to_json()
    assert metrics["crops"] == sum(passes)
    assert metrics["dense_passes"] == (8 if scoring == "dense" else 0)
    assert metrics == json.loads((tmp_path / "targets/metrics.json").read_text())
    store = TargetStore(tmp_path / "targets")
    assert metrics["bytes"] == store.bytes and metrics["images"] == len(store) == 8
    assert metrics["proposals"] + metrics["base_boxes"] == sum(len(store[image.image_id]) for image in images)


def test_dense_and_exhaustive_scoring_agree_for_equal_embeddings(tiny: TinyCoco, tmp_path: Path) -> None:
    # The dense pass of this teacher encodes crops, so both methods give the same scores.
    images = load_images(tiny.part(), SPLIT.base)
    stores = [
        _run(images, tmp_path / scoring, SETTINGS.model_copy(update={"scoring": scoring}))
        for scoring in ("dense", "exhaustive")
    ]
    for image in images:
        dense, exhaustive = (store[image.image_id] for store in stores)
        assert torch.equal(dense.boxes, exhaustive.boxes)
        torch.testing.assert_close(dense.scores, exhaustive.scores, atol=1e-4, rtol=0)


def test_crop_rank_changes_the_order_of_proposals(tiny: TinyCoco, tmp_path: Path) -> None:
    images = load_images(tiny.part(limit=1), SPLIT.base)

    class Blurred(ColourTeacher):
        def dense_embeddings(self, image: Tensor, boxes: Tensor, sides: object) -> Tensor:
            return torch.nn.functional.normalize(torch.rand(len(boxes), 16, generator=torch.Generator()), dim=1)

    ranks = {}
    for share in (0.0, 1.0):
        folder = tmp_path / str(share)
        chosen = SETTINGS.model_copy(update={"crop_rank": share})
        run_propose(RunContext(_recipe(chosen), SPLIT, RunFolder(folder), "cpu"), images, Blurred())
        regions = TargetStore(folder / "targets")[images[0].image_id]
        ranks[share] = regions.boxes[~regions.is_base_box]
    assert not torch.equal(ranks[0.0], ranks[1.0])
    assert torch.equal(ranks[0.0].unique(dim=0), ranks[1.0].unique(dim=0))
