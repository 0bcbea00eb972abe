"""A run folder with a tiny untrained model for the names of tests/tiny.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ezsd.detector.model_config import ModelConfig
from ezsd.detector.model_folder import save_model
from ezsd.detector.rcnn import build_detector
from ezsd.recipe import DataConfig, DetectorConfig, Recipe, parse_recipe, save_recipe
from tiny import SPLIT, TinyCoco
from tiny_teacher import TEACHER, tiny_values

DETECTOR = DetectorConfig(
    backbone="tf_efficientnet_lite0",
    pretrained=False,
    image_size=(96, 128),
    fpn_channels=8,
    anchor_sides=(16, 24, 32, 48, 96),
    rpn_proposals=60,
    head_convs=1,
    head_channels=8,
    head_features=16,
    nms=0.9,
    detections_per_image=300,
)
EMBEDDING_DIM = 16  # of tests/tiny_teacher.py


def make_recipe(coco: TinyCoco) -> Recipe:
    return Recipe(
        split={"base": SPLIT.base, "novel": SPLIT.novel},
        teacher=TEACHER,
        data=DataConfig(train=coco.part(), val=coco.part()),
        detector=DETECTOR,
    )


def make_model_folder(
    folder: Path, masks: bool = False, seed: int = 0, norms: Path | None = None, **changes: Any
) -> Path:
    """Write a model folder. Classification is made uncertain, so that detections have many names and scores.

    Args:
        folder: The folder.
        masks: Whether the model has a mask branch.
        seed: The seed of the weights.
        norms: Adapted norm parameters of the teacher.
        changes: Changes of the section detector.
    """
    torch.manual_seed(seed)
    detector = DETECTOR.model_copy(update=changes)
    model = build_detector(detector, EMBEDDING_DIM, masks, pretrained=False)
    for parameter in model.roi_heads.box_head.to_embedding.parameters():
        # In the layout that the detector's convolutions had when the scores of tests were chosen.
        layout = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
        drawn = torch.empty_like(parameter, memory_format=layout).normal_(std=0.2)
        parameter.data.copy_(drawn)
    with torch.no_grad():
        model.roi_heads.box_predictor.log_logit_scale.fill_(math.log(2))
    config = ModelConfig(
        detector=detector,
        embedding_dim=EMBEDDING_DIM,
        masks=masks,
        base=SPLIT.base,
        novel=SPLIT.novel,
        split=SPLIT.name,
        setting="named",
        teacher=TEACHER,
        prompt="a photo of a {name}",
        versions={},
    )
    save_model(folder, model, config, F.normalize(torch.randn(len(SPLIT.names), EMBEDDING_DIM), dim=1), norms)
    return folder


def make_model_of_run(folder: Path, **options: Any) -> Path:
    """Write the model and the recipe of a run, so that the teacher of the tests, which is code, is loaded.

    Args:
        folder: The run folder.
        options: As in :func:`make_model_folder`.

    Returns:
        The model folder.
    """
    save_recipe(parse_recipe(tiny_values("images", "instances.json"), "test"), folder / "recipe.yaml")
    return make_model_folder(folder / "train/model", **options)


def assert_same_detections(first: tuple[Any, Any, Any], second: tuple[Any, Any, Any]) -> None:
    """Compare (boxes, labels, scores), ignoring the order of detections."""
    boxes, labels, scores = (torch.as_tensor(part).double() for part in first)
    rows = torch.cat([boxes, labels[:, None] * 1e3, scores[:, None] * 1e3], dim=1)
    boxes, labels, scores = (torch.as_tensor(part).double() for part in second)
    others = torch.cat([boxes, labels[:, None] * 1e3, scores[:, None] * 1e3], dim=1)
    assert rows.shape == others.shape
    distance = (rows[:, None] - others[None]).abs().amax(dim=2)
    assert float(distance.amin(dim=0).max()) < 0.02
    assert float(distance.amin(dim=1).max()) < 0.02
