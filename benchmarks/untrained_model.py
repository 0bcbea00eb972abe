"""Model folders with random weights, for measurements of speed."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ezsd.detector.model_config import ModelConfig
from ezsd.detector.model_folder import save_model
from ezsd.detector.rcnn import build_detector
from ezsd.recipe import DetectorConfig


def unit(count: int, dim: int) -> Tensor:
    """Return random vectors [count, dim] of unit length."""
    return F.normalize(torch.randn(count, dim), dim=1)


def write_untrained_model(folder: Path, detector: DetectorConfig, names: int, dim: int) -> Path:
    """Write a model folder for names "name 0", "name 1" ... with random weights and text embeddings."""
    config = ModelConfig(
        detector=detector, embedding_dim=dim, masks=False, base=tuple(f"name {key}" for key in range(names)), novel=(),
        split="random", setting="strict", teacher="offline", prompt="a photo of a {name}", versions={},
    )  # fmt: skip
    save_model(folder, build_detector(detector, dim, masks=False, pretrained=False), config, unit(names, dim), None)
    return folder
