"""A teacher for runs that take seconds: it embeds mean colors, and names as fixed random directions."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ezsd.teacher.base import fingerprint_of, frozen, norms_of
from ezsd.teacher.regions import crop_regions
from ezsd.utils.files import digest

TEACHER = "tiny_teacher:ColourTeacher"
PROMPT = "a photo of a {name}"  # the default of recipes
COLORS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 220), "gray": (128, 128, 128),
          "white": (250, 250, 250), "black": (0, 0, 0)}  # fmt: skip


class ColourTeacher:
    """A tiny :class:`ezsd.teacher.base.Teacher`; the run folder of version 0.1.0 in the fixtures names it."""

    name = TEACHER
    embedding_dim = 16
    input_size = 16
    logit_scale = 10.0
    weights_digest = "colours"

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self._image = frozen(nn.Sequential(nn.Conv2d(3, 12, 4, 4), nn.BatchNorm2d(12), nn.GELU()))
            self._to_embedding = frozen(nn.Linear(12, 16))
        self._text = frozen(nn.LayerNorm(16))

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.weights_digest, self.norm_parameters())

    def encode_names(self, texts: Sequence[str]) -> Tensor:
        rows = [torch.randn(16, generator=torch.Generator().manual_seed(int(digest(text)[:8], 16))) for text in texts]
        return F.normalize(self._text(torch.stack(rows).to(self._text.weight.device)), dim=1)

    def encode_crops(self, crops: Tensor) -> Tensor:
        return F.normalize(self._to_embedding(self._image(crops * 2 - 1).mean((2, 3))), dim=1)

    @torch.no_grad()
    def dense_embeddings(self, image: Tensor, boxes: Tensor, sides: Sequence[int]) -> Tensor:
        return self.encode_crops(crop_regions(image, boxes, self.input_size))

    def norm_parameters(self, towers: Sequence[str] = ("image", "text")) -> dict[str, nn.Parameter]:
        modules = {"image": self._image, "text": self._text}
        return {name: value for tower in towers for name, value in norms_of(modules[tower], tower).items()}

    def to(self, device: str) -> ColourTeacher:
        for module in (self._image, self._to_embedding, self._text):
            module.to(device)
        return self


class PaletteTeacher(ColourTeacher):
    """A teacher with two dense readings: ``block`` knows nothing, ``self_self`` knows the names of ``COLORS``."""

    dense_readings = ("block", "self_self")
    reading = "block"

    @torch.no_grad()
    def dense_embeddings(self, image: Tensor, boxes: Tensor, sides: Sequence[int]) -> Tensor:
        names = self.encode_names([PROMPT.format(name=name) for name in COLORS])
        if self.reading == "block":
            return names[:1].expand(len(boxes), -1)
        distances = torch.cdist(crop_regions(image, boxes, 8).mean((2, 3)), torch.tensor([*COLORS.values()]) / 255)
        return F.normalize((-8 * distances).softmax(1) @ names, dim=1)

    def with_dense_reading(self, reading: str) -> PaletteTeacher:
        other = copy.copy(self)
        other.reading = reading
        return other


class MortalTeacher(ColourTeacher):
    """A teacher whose process is killed while it encodes crops, once for each time that the file is made."""

    name = "tiny_teacher:MortalTeacher"

    def encode_crops(self, crops: Tensor) -> Tensor:
        kill_once()
        return super().encode_crops(crops)


def kill_once() -> None:
    """Kill this process if the file ``$EZSD_TEST_KILL`` exists; the file is removed, so only one process dies."""
    try:
        Path(os.environ.get("EZSD_TEST_KILL", "none")).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def tiny_values(images: str, annotations: str) -> dict[str, object]:
    """Return the values of a recipe for tests/tiny.py whose stages take one or two seconds each."""
    part = {"images": images, "annotations": annotations}
    return {
        "split": {"base": ["circle", "square"], "novel": ["triangle", "bar"]},
        "teacher": TEACHER,
        "data": {"train": part, "val": part, "workers": 0},
        "adapt": {"epochs": 2, "batch_size": 8, "lr": 0.01},
        "propose": {
            "image_size": [64, 96], "stride": 16, "sides": [16, 32], "ratios": [1.0], "dense_sides": [96],
            "shortlist": 40, "keep": 10, "base_filter": False, "shard_images": 2,
        },
        "detector": {
            "backbone": "tf_efficientnet_lite0", "pretrained": False, "image_size": [64, 96], "fpn_channels": 8,
            "anchor_sides": [8, 16, 32, 48, 64], "rpn_proposals": 20, "head_convs": 1, "head_channels": 8,
            "head_features": 16, "rois_per_image": 16, "masks": False, "detections_per_image": 20,
        },
        "train": {
            "epochs": 2, "batch_size": 2, "optimizer": "adamw", "lr": 0.001, "warmup_steps": 1,
            "proposals_per_image": 5, "checkpoint_steps": 2,
        },
    }  # fmt: skip
