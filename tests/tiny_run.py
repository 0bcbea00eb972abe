"""A run folder with a tiny untrained model of the names of tests/tiny.py; real code all through."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F

from ezsd.detector.model_folder import ModelConfig, save_model
from ezsd.detector.rcnn import build_detector
from ezsd.recipe import Data, Detector, Recipe
from tiny import SPLIT, TinyCoco

DETECTOR = Detector(
    backbone="tf_efficientnet_lite0",
    pretrained=False,
    image_size=(96, 128),
    fpn_channels=8,
    anchor_sides=(16, 24, 32, 48, 96),
    rpn_proposals=300,
    head_convs=1,
    head_channels=8,
    head_features=16,
    nms=0.9,
    detections_per_photo=300,
)
EMBEDDING_DIM = 384  # of the offline teacher, so that it can encode other names


def make_recipe(coco: TinyCoco) -> Recipe:
    return Recipe(
        split={"base": SPLIT.base, "novel": SPLIT.novel},
        teacher="offline",
        data=Data(train=coco.part(), val=coco.part()),
        detector=DETECTOR,
    )


def make_model_folder(folder: Path, masks: bool = False, seed: int = 0) -> Path:
    """Write a model folder; classification is made unsure, so that many names and scores are found."""
    torch.manual_seed(seed)
    model = build_detector(DETECTOR, EMBEDDING_DIM, masks, pretrained=False)
    for parameter in model.roi_heads.box_head.to_embedding.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        model.roi_heads.box_predictor.log_logit_scale.fill_(math.log(2))
    config = ModelConfig(
        detector=DETECTOR,
        embedding_dim=EMBEDDING_DIM,
        masks=masks,
        base=SPLIT.base,
        novel=SPLIT.novel,
        split=SPLIT.name,
        setting="named",
        teacher="offline",
        prompt="a photo of a {name}",
        versions={},
    )
    save_model(folder, model, config, F.normalize(torch.randn(len(SPLIT.names), EMBEDDING_DIM), dim=1), None)
    return folder
