"""The inputs of each stage: settings, and digests of data. A stage whose inputs have not changed is not run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ezsd.data.categories import CategorySplit
from ezsd.data.formats.coco_entries import find_records
from ezsd.data.formats.coco_json import read_annotations
from ezsd.detector.initial_weights import start_folder
from ezsd.detector.model_folder import CONFIG, MODEL
from ezsd.recipe import DetectorConfig, Part, Recipe, needs_targets
from ezsd.utils.files import digest

Inputs = dict[str, Any]

FORMAT = 1  # increased when a stage writes different files, or different values for the same recipe
_CONTENT = "sha256:"
_LOCAL = "local-dir:"
_SPEED_ONLY = ("propose.batch_size", "train.checkpoint_steps", "train.trackers", "evaluate.batch_size")

_OF_VALIDATION = ("train.validate_steps", "train.validate_images", "train.patience")
# Keys that do not affect the training of the RPN in stage propose: RoI heads and distillation.
_NOT_OF_RPN = (
    "detector.rpn_proposals", "detector.roi_size", "detector.head_convs", "detector.head_channels",
    "detector.head_features", "detector.rois_per_image", "detector.masks", "detector.semantic_regression",
    "detector.semantic_top_k", "detector.score_threshold", "detector.nms", "detector.detections_per_image",
    "train.epochs", "train.distillation_weight", "train.proposals_per_image", "train.ignore_top",
    "train.novel_negatives", "train.pseudo_boxes", "train.names_weight", "train.base_labels",
    "train.background_share", "train.novel_rivals",
    "train.from_rpn", "train.class_loss", "detector.soft_nms", "detector.semantic_placement",
    "detector.objectness_power", "detector.quality_power", "detector.start_from", *_OF_VALIDATION,
)  # fmt: skip
# Keys added after version 0.1.0, with the value that is the behavior before them. With that value they are left out, so
# that earlier run folders stay valid.
_ADDED: Inputs = {
    "evaluate.calibrate_novel": False,
    "adapt.share": 1.0,
    "propose.dense_reading": "block",
    "propose.size_power": 0.1,
    "propose.weighting": "best_name",
    "detector.start_from": None,
    "detector.anchor_scales": [1.0],
    "detector.semantic_placement": "before",
    "detector.box_quality": False,
    "detector.objectness_power": 0.0,
    "detector.quality_power": 1.0,
    "detector.soft_nms": 0.0,
    "train.names_weight": 0.0,
    "train.base_labels": 1.0,
    "train.background_share": 0.0,
    "train.novel_rivals": False,
    "train.from_rpn": False,
    "train.pseudo_boxes": 0.0,
    "train.repeat_threshold": 0.0,
    "train.class_loss": "softmax",
    "train.scale_jitter": [1.0, 1.0],
    "train.color_jitter": 0.0,
    "train.ema": 0.0,
    "train.validate_steps": 0,
    "train.validate_images": 64,
    "train.patience": 0,
    "evaluate.second_opinion": "none",
    "evaluate.opinion_powers": [0.1, 0.3],
}
# Keys that do not affect the regions of ``scoring: rpn``: the anchor grid and its ranking.
_NOT_OF_REGIONS = (
    "propose.ranking", "propose.objectness", "propose.image_size", "propose.stride", "propose.sides", "propose.ratios",
    "propose.dense_sides", "propose.dense_reading", "propose.nms", "propose.crop_rank",
)  # fmt: skip


def stage_inputs(recipe: Recipe, split: CategorySplit) -> dict[str, Inputs]:
    """Return everything the result of each stage depends on: JSON values by recipe key, and digests of files.

    Raises:
        DataError: An annotation file cannot be read.
    """
    common: Inputs = {
        "format": FORMAT,
        "teacher": recipe.teacher,
        "teacher.file": _digest_of_weights(recipe.teacher),
        "prompt": recipe.prompt,
        "seed": recipe.seed,
        "split.base": list(split.base),
        "split.novel": list(split.novel),
        **({"split.few_shot": list(split.few_shot)} if split.few_shot else {}),
        "data.skip_bad": recipe.data.skip_bad,
        **_of_part("data.train", recipe.data.train),
    }
    val = _of_part("data.val", recipe.data.val)
    proposing = _of_proposing(recipe)
    adapted = common | (_of_section("adapt", recipe.adapt) if recipe.adapt.enabled else {"adapt.enabled": False})
    trained = adapted | _of_detector(recipe.detector) | _of_section("train", recipe.train)
    if needs_targets(recipe.train):
        trained |= proposing
    if recipe.train.validate_steps:
        trained |= val
    else:
        trained = {key: value for key, value in trained.items() if key not in _OF_VALIDATION}
    return {
        "adapt": adapted | val,  # its metrics are measured on the val images
        "propose": adapted | proposing,
        "train": trained,
        "evaluate": trained
        | val
        | _of_section("evaluate", recipe.evaluate)
        | (proposing if recipe.evaluate.proposals or recipe.evaluate.second_opinion == "dense" else {}),
    }


def fingerprint(inputs: Inputs) -> str:
    """Return the digest of the inputs of a stage."""
    return digest(json.dumps(inputs, sort_keys=True))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line for each recipe key whose value differs between two inputs of a stage."""
    changes = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if any(str(value).startswith(_CONTENT) for value in (old, new)):
            changes.append(f"{key}: the content has changed")
        else:
            changes.append(f"{key} was {_short(old)}, is now {_short(new)}")
    return changes


def _short(value: Any) -> str:
    text = json.dumps(value)
    return f"{text[:57]}..." if len(text) > 60 else text


def _of_proposing(recipe: Recipe) -> Inputs:
    values = _of_section("propose", recipe.propose)
    if not recipe.propose.asks_rpn:
        return {key: value for key, value in values.items() if key != "propose.rpn_epochs"}
    values |= _of_section("detector", recipe.detector) | _of_section("train", recipe.train)
    without = _NOT_OF_RPN + (_NOT_OF_REGIONS if recipe.propose.scoring == "rpn" else ())
    return {key: value for key, value in values.items() if key not in without}


def _of_section(name: str, section: BaseModel) -> Inputs:
    values = {f"{name}.{key}": value for key, value in section.model_dump(mode="json").items()}
    return {
        key: value
        for key, value in values.items()
        if key not in _SPEED_ONLY and not (key in _ADDED and value == _ADDED[key])
    }


def _of_detector(config: DetectorConfig) -> Inputs:
    """Return the section; a model folder to start from is represented by its content."""
    values, folder = _of_section("detector", config), start_folder(config)
    if folder is not None:
        values["detector.start_from"] = _CONTENT + digest(folder / MODEL, folder / CONFIG)
    return values


def _of_part(name: str, part: Part) -> Inputs:
    records = find_records(read_annotations(part.annotations).images, part).records
    images = "\n".join(f"{record.image_id} {record.path.name} {_size(record.path)}" for record in records)
    return {
        f"{name}.annotations": _CONTENT + digest(part.annotations),
        f"{name}.images": _CONTENT + digest(images),
        f"{name}.limit": part.limit,
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest_of_weights(teacher: str) -> str | None:
    path = weights_path(teacher)
    if path is not None:
        return _CONTENT + digest(path)
    if teacher.startswith(_LOCAL):
        folder = Path(teacher.removeprefix(_LOCAL)).expanduser()
        return _CONTENT + digest(*sorted(each for each in folder.glob("*") if each.is_file()))
    return None


def absolute_teacher(teacher: str) -> str:
    """Return a teacher with the path of its weights or folder, if it names one, made absolute."""
    path = weights_path(teacher)
    if path is not None:
        return f"{teacher.partition('/')[0]}/{path.absolute()}"
    if teacher.startswith(_LOCAL):
        return f"{_LOCAL}{Path(teacher.removeprefix(_LOCAL)).expanduser().absolute()}"
    return teacher


def weights_path(teacher: str) -> Path | None:
    """Return the checkpoint file that an ``open_clip:ARCH/PATH`` teacher names; None for other teachers."""
    kind, _, rest = teacher.partition(":")
    path = Path(rest.partition("/")[2]).expanduser()
    return path if kind == "open_clip" and path.is_file() else None
