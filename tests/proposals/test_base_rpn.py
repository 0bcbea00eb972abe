"""The RPN trained on base boxes: training, regions, objectness and reported recall."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import ezsd.pipeline.propose
import ezsd.training.loop
from ezsd.data.formats.coco import load_images
from ezsd.data.samples import read_image
from ezsd.data.target_store import TargetStore, write_shard
from ezsd.errors import ArtifactError
from ezsd.pipeline.context import RunContext
from ezsd.pipeline.propose import run_propose
from ezsd.pipeline.run import run_recipe
from ezsd.proposals.base_rpn import load_base_rpn, train_base_rpn
from ezsd.proposals.candidates import agreement
from ezsd.proposals.recall import novel_recall
from ezsd.recipe import Recipe, parse_recipe
from ezsd.run_folder import RunFolder
from ezsd.teacher.regions import crop_regions
from ezsd.utils.checkpoint import save_checkpoint
from ezsd.utils.files import write_tensors
from tiny import CATEGORIES, EMPTY_IMAGE, SIZES, SPLIT, TinyCoco
from tiny_teacher import ColourTeacher, tiny_values

WEIGHTS = "rpn.safetensors"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def coco(tmp_path: Path, tiny_coco: Callable[..., TinyCoco]) -> TinyCoco:
    return tiny_coco(tmp_path / "data")


def _recipe(coco: TinyCoco, **changes: Any) -> Recipe:
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    values["adapt"] = {"enabled": False}
    values["propose"] |= {"scoring": "rpn", "rpn_epochs": 1}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section][name] = value
    return parse_recipe(values, "test")


def _propose(coco: TinyCoco, folder: Path, **changes: Any) -> tuple[TargetStore, Mapping[str, Any]]:
    images = load_images(coco.part(), SPLIT.base)
    run = RunFolder(folder)
    metrics = run_propose(RunContext(_recipe(coco, **changes), SPLIT, run, "cpu"), images, ColourTeacher())
    return TargetStore(run.of("propose")), metrics.to_json()


def _assert_same(first: TargetStore, second: TargetStore) -> None:
    assert len(first) == len(second) == len(SIZES)
    for image_id in SIZES:
        one, other = first[image_id], second[image_id]
        assert all(torch.equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


def test_the_best_regions_of_the_rpn_are_stored_with_crop_embeddings(coco: TinyCoco, tmp_path: Path) -> None:
    store, metrics = _propose(coco, tmp_path)
    assert store.damaged() == []
    rpn, teacher = load_base_rpn(tmp_path / "targets", 40, "cpu"), ColourTeacher()
    text = teacher.encode_names([f"a photo of a {name}" for name in SPLIT.names])
    images = load_images(coco.part(), SPLIT.base)
    for image in images:
        regions = store[image.image_id]
        found, base = regions[~regions.is_base_box], regions.boxes[regions.is_base_box]
        assert torch.equal(base, image.boxes[~image.crowd])
        boxes, objectness = rpn.propose(read_image(image).float() / 255)
        assert len(boxes) > 10 and len(found) == 10
        assert torch.equal(found.boxes, boxes[:10]) and torch.equal(found.scores, objectness[:10])
        crops = teacher.encode_crops(crop_regions(read_image(image), found.boxes, 16))
        torch.testing.assert_close(found.embeddings.float(), crops, atol=2e-3, rtol=0)
        weights, names = (10 * crops @ text.T).softmax(1).max(1)
        torch.testing.assert_close(found.weights, weights, atol=1e-4, rtol=0)
        assert torch.equal(found.labels, names + 1)
    assert metrics["grid_boxes"] == metrics["dense_passes"] == 0
    assert metrics["crops"] == metrics["proposals"] + metrics["base_boxes"] == 80 + metrics["base_boxes"]
    assert metrics["seconds"] >= metrics["rpn_seconds"] > 0
    assert json.loads((tmp_path / "targets/rpn/metrics.json").read_text())["steps"] == 4  # 8 images, 2 per step
    assert metrics == json.loads((tmp_path / "targets/metrics.json").read_text())


def test_the_base_filter_removes_regions_classified_as_base(coco: TinyCoco, tmp_path: Path) -> None:
    everything, _ = _propose(coco, tmp_path / "all", propose__keep=40)
    filtered, metrics = _propose(coco, tmp_path / "filtered", propose__base_filter=True)
    dropped = 0
    for image_id in SIZES:
        regions = everything[image_id]
        novel = regions[~regions.is_base_box & (regions.labels > len(SPLIT.base))]
        dropped += int((~regions.is_base_box).sum()) - len(novel)
        kept = filtered[image_id]
        assert torch.equal(kept.boxes[~kept.is_base_box], novel.boxes[:10])
    assert dropped > 0
    counts = [int((~everything[image_id].is_base_box).sum()) for image_id in SIZES]
    assert 20 < max(counts) <= 40  # limited by the shortlist, not by detector.rpn_proposals = 20
    assert metrics["crops"] == sum(len(everything[image_id]) for image_id in SIZES)  # all boxes of the shortlist


def test_the_rpn_is_trained_only_on_base_boxes(coco: TinyCoco, tmp_path: Path) -> None:
    known, unknown = (load_images(coco.part(), names) for names in (SPLIT.names, SPLIT.base))
    for name, images in (("known", known), ("unknown", unknown)):
        train_base_rpn(_recipe(coco), SPLIT.base, images, tmp_path / name)
    assert (tmp_path / "known" / WEIGHTS).read_bytes() == (tmp_path / "unknown" / WEIGHTS).read_bytes()
    train_base_rpn(_recipe(coco), SPLIT.base[:1], unknown, tmp_path / "fewer")
    assert (tmp_path / "fewer" / WEIGHTS).read_bytes() != (tmp_path / "unknown" / WEIGHTS).read_bytes()


def test_objectness_adds_regions_to_the_grid_and_ranks_boxes_that_agree_with_them_higher(
    coco: TinyCoco, tmp_path: Path
) -> None:
    changes = {"propose__scoring": "dense", "propose__crop_rank": 1.0, "propose__ranking": "max_probability"}
    store, metrics = _propose(coco, tmp_path, propose__objectness=2.0, **changes)
    plain, _ = _propose(coco, tmp_path / "plain", **changes)
    rpn = load_base_rpn(tmp_path / "targets", 40, "cpu")
    text = ColourTeacher().encode_names([f"a photo of a {name}" for name in SPLIT.names])
    joined, agreed, before = 0, [], []
    for image in load_images(coco.part(), SPLIT.base).images:
        boxes, objectness = (part[:10] for part in rpn.propose(read_image(image).float() / 255))
        found = store[image.image_id][~store[image.image_id].is_base_box]
        likeness = agreement(found.boxes, boxes, objectness)
        crops = ColourTeacher().encode_crops(crop_regions(read_image(image), found.boxes, 16))
        expected = likeness**2 * (10 * crops @ text.T).softmax(1).amax(1)
        torch.testing.assert_close(found.scores, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.weights, expected, atol=1e-4, rtol=0)
        joined += sum(bool((boxes == box).all(1).any()) for box in found.boxes)
        agreed.append(likeness.mean())
        before.append(agreement(plain[image.image_id].boxes, boxes, objectness).mean())
    assert joined > 0
    assert sum(agreed) > sum(before)
    assert metrics["rpn_seconds"] > 0 and not (tmp_path / "plain" / "targets" / WEIGHTS).exists()


def test_regions_are_ranked_by_objectness_and_the_dense_probability_of_novel_names(
    coco: TinyCoco, tmp_path: Path
) -> None:
    changes = {"propose__scoring": "regions", "propose__ranking": "novel", "propose__size_power": 0.0}
    store, metrics = _propose(coco, tmp_path, propose__objectness=0.5, propose__crop_rank=0.0, **changes)
    rpn, teacher = load_base_rpn(tmp_path / "targets", 40, "cpu"), ColourTeacher()
    text = teacher.encode_names([f"a photo of a {name}" for name in SPLIT.names])
    config = _recipe(coco).propose
    for image in load_images(coco.part(), SPLIT.base).images:
        regions = store[image.image_id]
        found = regions[~regions.is_base_box]
        pixels = read_image(image).float() / 255
        boxes, objectness = rpn.propose(pixels)
        places = [int((boxes == box).all(1).nonzero()[0]) for box in found.boxes]  # regions only, no grid
        dense = teacher.dense_embeddings(pixels, found.boxes, config.dense_sides)
        novel = (10 * dense @ text.T).softmax(1)[:, len(SPLIT.base) :].amax(1)
        torch.testing.assert_close(found.scores, objectness[places] ** 0.5 * novel, atol=1e-3, rtol=0)
        assert (found.scores[:-1] >= found.scores[1:]).all()
    assert metrics["grid_boxes"] == 0 and metrics["dense_passes"] > 0


def test_weighting_novel_multiplies_score_and_novel_probability_of_the_crop(coco: TinyCoco, tmp_path: Path) -> None:
    store, _ = _propose(coco, tmp_path, propose__weighting="novel")
    text = ColourTeacher().encode_names([f"a photo of a {name}" for name in SPLIT.names])
    for image_id in SIZES:
        found = store[image_id][~store[image_id].is_base_box]
        novel = (10 * found.embeddings.float() @ text.T).softmax(1)[:, len(SPLIT.base) :].amax(1)
        torch.testing.assert_close(found.weights, (found.scores * novel / 0.3).clamp(max=1), atol=5e-3, rtol=0)


@pytest.mark.parametrize("changes", [
    {}, {"propose__scoring": "dense", "propose__objectness": 1.0}, {"propose__scoring": "regions"},
])  # fmt: skip
def test_novel_annotations_do_not_change_the_store(
    tmp_path: Path, tiny_coco: Callable[..., TinyCoco], changes: dict[str, Any]
) -> None:
    honest, altered, val = (tiny_coco(tmp_path / name) for name in ("honest", "altered", "val"))
    base = {key for key, name in CATEGORIES.items() if name in SPLIT.base}
    for entry in altered.content["annotations"]:
        if entry["category_id"] not in base:
            entry["bbox"], entry["iscrowd"] = [2.0, 3.0, 30.0, 20.0], 1 - entry["iscrowd"]
    more = {"id": 90_000, "image_id": EMPTY_IMAGE, "category_id": 20, "bbox": [5, 5, 40, 40], "area": 9, "iscrowd": 0}
    altered.content["annotations"].append({**more, "segmentation": [[5, 5, 9, 5, 9, 9]]})
    altered.save()
    part = {"images": str(val.images), "annotations": str(val.annotations)}
    for name, coco in (("a", honest), ("b", altered)):
        run_recipe(_recipe(coco, data__val=part, **changes), tmp_path / name, until="propose")
    _assert_same(*(TargetStore(tmp_path / name / "targets") for name in ("a", "b")))


def test_a_stage_interrupted_at_any_point_gives_the_same_store(
    coco: TinyCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = _propose(coco, tmp_path / "expected")
    folder, changes = tmp_path / "interrupted", {"train__checkpoint_steps": 1}

    def interrupt_training(place: Path, step: int, *rest: Any) -> None:
        save_checkpoint(place, step, *rest)
        if step == 2:
            raise KeyboardInterrupt

    def interrupt_proposing(path: Path, *rest: Any) -> None:
        if path.name == "shard-00001.arrow":
            raise KeyboardInterrupt
        write_shard(path, *rest)

    steps: list[int] = []

    def record_step(place: Path, step: int, *rest: Any) -> None:
        steps.append(step)
        save_checkpoint(place, step, *rest)

    monkeypatch.setattr(ezsd.training.loop, "save_checkpoint", interrupt_training)
    with pytest.raises(KeyboardInterrupt):
        _propose(coco, folder, **changes)
    assert not (folder / "targets" / WEIGHTS).exists()
    monkeypatch.setattr(ezsd.training.loop, "save_checkpoint", record_step)
    monkeypatch.setattr(ezsd.pipeline.propose, "write_shard", interrupt_proposing)
    with pytest.raises(KeyboardInterrupt):
        _propose(coco, folder, **changes)
    assert steps == [3, 4]  # resumes after step 2
    monkeypatch.setattr(ezsd.pipeline.propose, "write_shard", write_shard)
    stamps = {name: (folder / "targets" / name).stat().st_mtime_ns for name in (WEIGHTS, "shard-00000.arrow")}
    resumed, _ = _propose(coco, folder, **changes)
    assert steps == [3, 4]  # a trained RPN is not trained again
    assert stamps == {name: (folder / "targets" / name).stat().st_mtime_ns for name in stamps}
    _assert_same(expected, resumed)


def test_shards_are_recomputed_when_the_rpn_changes(coco: TinyCoco, tmp_path: Path) -> None:
    first, _ = _propose(coco, tmp_path)
    before = {image_id: first[image_id].boxes for image_id in SIZES}
    (tmp_path / "targets" / WEIGHTS).unlink()
    for checkpoint in (tmp_path / "targets/rpn/checkpoints").glob("*/*"):
        checkpoint.unlink()
    next((tmp_path / "targets/rpn/checkpoints").iterdir()).rmdir()
    second, _ = _propose(coco, tmp_path, propose__rpn_epochs=2)
    assert not any(torch.equal(before[image_id], second[image_id].boxes) for image_id in SIZES)


def test_a_run_reports_the_recall_and_cost_of_the_rpn(coco: TinyCoco, tmp_path: Path) -> None:
    recipe = _recipe(coco, detector__semantic_regression=False)
    metrics = run_recipe(recipe, tmp_path / "run")
    rpn, images = load_base_rpn(tmp_path / "run/targets", 40, "cpu"), load_images(coco.part(), SPLIT.names)
    boxes = {image.image_id: rpn.propose(read_image(image).float() / 255)[0] for image in images}
    expected = novel_recall(boxes, images, SPLIT.novel)
    assert metrics["evaluate"].proposals.to_json() == pytest.approx(expected, abs=1e-4)
    assert expected["novel_recall_at_100"] is not None
    cost = metrics["evaluate"].cost
    assert cost.propose_s >= metrics["propose"].rpn_seconds > 0
    assert cost.teacher_crops == metrics["propose"].crops


def test_recall_is_not_measured_without_targets(coco: TinyCoco, tmp_path: Path) -> None:
    metrics = run_recipe(_recipe(coco, train__distillation_weight=0.0), tmp_path / "run")
    assert not (tmp_path / "run/targets").exists()
    assert set(metrics["evaluate"].proposals.to_json().values()) == {None}


def test_a_missing_or_invalid_rpn_file_is_reported(coco: TinyCoco, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"rpn\.safetensors is missing"):
        load_base_rpn(tmp_path, 40, "cpu")
    write_tensors(tmp_path / WEIGHTS, {"weight": torch.zeros(1)})
    with pytest.raises(ArtifactError, match=r"rpn\.safetensors is not an RPN of ezsd"):
        load_base_rpn(tmp_path, 40, "cpu")
    detector = _recipe(coco).detector.model_dump_json()
    write_tensors(tmp_path / WEIGHTS, {"weight": torch.zeros(1)}, {"detector": detector})
    with pytest.raises(ArtifactError, match=r"rpn\.safetensors is not an RPN of ezsd"):
        load_base_rpn(tmp_path, 40, "cpu")
