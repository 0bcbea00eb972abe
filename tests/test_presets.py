"""Tests of the presets: ``paper`` is what the description of the method says, ``baseline`` has none of its ideas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ezsd.errors import RecipeError
from ezsd.recipe import load_recipe, recipe_keys
from ezsd.recipe_files import recipe_header, shipped_presets
from recipe_values import by_key, written_by_init

PAPER: dict[str, dict[str, Any]] = {
    # stage 1: adapt
    'the text of a name is "a photo of a {name}"': {"prompt": "a photo of a {name}"},
    "train the affine parameters of the normalization layers of image and text tower": {
        "adapt.enabled": True, "adapt.towers": ["image", "text"],
    },
    "cross-entropy over base names, without adjustment for frequent names": {"adapt.balance": 0.0},
    "crops are the ground-truth base boxes, all of them, without jitter": {"adapt.jitter": 0.0, "adapt.min_side": 0},
    "AdamW, weight decay 1e-4, gradient norm clipped at 0.1": {"adapt.weight_decay": 1e-4, "adapt.clip_norm": 0.1},
    "the norms are what the training made of them": {"adapt.share": 1.0},
    # stage 2: propose
    "an anchor grid of ratios 0.5, 1, 2, scored densely (the one difference), without an RPN": {
        "propose.scoring": "dense", "propose.ratios": [0.5, 1.0, 2.0], "propose.objectness": 0.0,
    },
    "the score of a box is the entropy of the names of its crop": {
        "propose.ranking": "entropy", "propose.crop_rank": 1.0,
    },
    "class-agnostic NMS at 0.7, keep 1000": {"propose.nms": 0.7, "propose.shortlist": 1000},
    "drop boxes whose best name is a base name, and no others": {
        "propose.base_filter": True, "propose.base_overlap": 1.0,
    },
    "keep 300 with the probability of the best name as weight": {
        "propose.keep": 300, "propose.weighting": "best_name",
    },
    # stage 3: train
    "L1 alone, in full, on base boxes and 200 proposals an image": {
        "train.distillation_weight": 1.0, "train.names_weight": 0.0, "train.proposals_per_image": 200,
    },
    "semantic regression by the best name, text after the last hidden layer": {
        "detector.semantic_regression": True, "detector.semantic_top_k": 1, "detector.semantic_placement": "after",
    },
    "softmax cross-entropy, without treatment of rare names": {"train.class_loss": "softmax"},
    "gradient norm clipped at 10": {"train.clip_norm": 10.0},
    "no flip and no other augmentation": {
        "train.flip": 0.0, "train.scale_jitter": [1.0, 1.0], "train.color_jitter": 0.0,
    },
    "no novel-aware negatives and no pseudo-boxes": {
        "train.ignore_top": 0, "train.novel_negatives": False, "train.novel_rivals": False,
        "train.pseudo_boxes": 0,
    },
    "no other start than ImageNet, no averages of weights, no choice of weights by validation": {
        "detector.start_from": None, "train.from_rpn": False, "train.ema": 0.0, "train.validate_steps": 0,
    },
    # stage 4: evaluate
    "score threshold 0 and 300 boxes an image, as the authors test": {
        "detector.score_threshold": 0.0, "detector.detections_per_image": 300,
    },
    "the score of a box is the probability of its name": {
        "detector.box_quality": False, "detector.objectness_power": 0.0,
    },
    "the detector alone, without the teacher": {"evaluate.second_opinion": "none"},
    "the NMS of an ordinary Faster R-CNN": {"detector.nms": 0.5, "detector.soft_nms": 0.0},
}  # fmt: skip
LEFT_TO_THE_RECIPE = {
    # long-tailed data
    "train.repeat_threshold",
    # precision, speed and bookkeeping
    "adapt.precision", "propose.precision", "train.precision", "propose.batch_size", "propose.shard_images",
    "evaluate.batch_size", "evaluate.proposals", "evaluate.calibrate_novel", "train.checkpoint_steps", "train.trackers",
    # optimizer, batch, learning rates and length of the trainings
    "adapt.epochs", "adapt.batch_size", "adapt.lr", "propose.rpn_epochs", "train.epochs", "train.batch_size",
    "train.accumulate", "train.optimizer", "train.lr", "train.backbone_lr", "train.weight_decay", "train.schedule",
    "train.milestones", "train.warmup_steps",
    # sizes of the images, the objects and the network
    "propose.image_size", "propose.stride", "propose.sides", "propose.dense_sides", "detector.image_size",
    "detector.anchor_sides", "detector.anchor_scales", "detector.backbone", "detector.pretrained",
    "detector.fpn_channels", "detector.rpn_proposals", "detector.roi_size", "detector.head_convs",
    "detector.head_channels", "detector.head_features", "detector.rois_per_image", "detector.masks",
    # keys of additions that the preset turns off
    "propose.size_power", "propose.dense_reading", "detector.quality_power", "train.base_labels",
    "train.background_share", "train.validate_images", "train.patience", "evaluate.opinion_powers",
}  # fmt: skip
# What the baseline changes in each section.
BASELINE = {
    "adapt": {"enabled"},
    "propose": {"scoring", "base_overlap", "weighting"},
    "detector": {"semantic_regression"},
    "train": {"ignore_top", "pseudo_boxes", "novel_negatives"},
}


@pytest.fixture(params=["pocket", "init"])
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """The pocket recipe, and one that ``ezsd init`` writes."""
    return written_by_init(tmp_path) if request.param == "init" else "pocket"


def _keys(preset: Path) -> set[str]:
    values = yaml.safe_load(preset.read_text(encoding="utf-8"))
    return {
        f"{name}.{key}" if key else name
        for name, section in values.items()
        for key in (section if isinstance(section, dict) else [""])
    }


def test_paper_is_the_published_method_on_any_recipe(recipe: Path | str) -> None:
    found, own = by_key(load_recipe(recipe, preset="paper")), by_key(load_recipe(recipe))
    for words, values in PAPER.items():
        assert {key: found[key] for key in values} == values, words
    described = {key for values in PAPER.values() for key in values}
    assert {key: value for key, value in found.items() if key not in described} == {
        key: value for key, value in own.items() if key not in described
    }
    assert found != own


def test_every_key_is_set_by_paper_or_left_to_the_recipe() -> None:
    chosen = _keys(shipped_presets()["paper"])
    assert chosen == {key for values in PAPER.values() for key in values}
    assert not chosen & LEFT_TO_THE_RECIPE
    keys = {key for key in recipe_keys() if not key.startswith("data.")} - {"split", "teacher", "seed"}
    assert chosen | LEFT_TO_THE_RECIPE == keys


def test_recipe_with_the_published_settings_is_not_changed_by_paper() -> None:
    assert load_recipe("coco_48_17", preset="paper") == load_recipe("coco_48_17")


def test_baseline_differs_only_in_the_three_ideas_and_what_depends_on_clip_proposals(recipe: Path | str) -> None:
    ours, other = load_recipe(recipe), load_recipe(recipe, preset="baseline")
    kept = {name: set(getattr(ours, name).__class__.model_fields) - changed for name, changed in BASELINE.items()}
    assert other.model_dump(include=kept) == ours.model_dump(include=kept)
    assert other.model_dump(exclude=set(BASELINE)) == ours.model_dump(exclude=set(BASELINE))
    assert not other.adapt.enabled and other.propose.scoring == "rpn" and not other.detector.semantic_regression
    assert (other.train.ignore_top, other.train.pseudo_boxes, other.train.novel_negatives) == (0, 0, False)
    assert (other.propose.base_overlap, other.propose.weighting) == (1.0, "best_name")


@pytest.mark.parametrize("path", shipped_presets().values(), ids=shipped_presets())
def test_preset_has_known_keys_only_and_its_command_in_its_header(path: Path) -> None:
    assert _keys(path) <= set(recipe_keys())
    assert f"--preset {path.stem}" in recipe_header(path)


def test_changes_are_applied_after_the_preset() -> None:
    recipe = load_recipe("pocket", ["train.flip=0.25", "propose.keep=7"], preset="paper")
    assert (recipe.train.flip, recipe.propose.keep, recipe.train.names_weight) == (0.25, 7, 0.0)


def test_preset_fills_an_empty_section_and_does_not_hide_an_invalid_one(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    data = "data: {train: {images: a, annotations: b}, val: {images: a, annotations: b}}"
    path.write_text(f"split: pocket\nteacher: pocket\n{data}\nadapt:\ntrain: fast\n")
    with pytest.raises(RecipeError, match="train = 'fast'") as raised:
        load_recipe(path, preset="paper")
    assert len(raised.value.problems) == 1
    path.write_text(path.read_text().replace("train: fast\n", ""))
    assert not load_recipe(path, preset="baseline").adapt.enabled


def test_unknown_preset_suggests_the_closest_and_lists_all() -> None:
    with pytest.raises(RecipeError, match='papr is not a preset. Did you mean "paper"') as raised:
        load_recipe("pocket", preset="papr")
    assert all(name in str(raised.value) for name in shipped_presets())
