"""The Pocket CLIP: a small open_clip model that knows OpenMoji pictograms by their names, shipped with its weights.

It goes the road of any CLIP: an architecture that open_clip knows (here: is told of) and a local checkpoint. The
weights were learned from single pictograms and their names (``ezsd pocket-teacher``, weights.json beside them), novel
names of the split ``pocket`` included, as CLIP has seen many novel things with their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from ezsd.teacher.clip import ClipTeacher, load_clip

ARCHITECTURE = "ezsd_pocket"
FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "weights.safetensors"  # made by `ezsd pocket-teacher`; weights.json tells how


def load_pocket() -> ClipTeacher:
    """Load the packaged weights.

    Raises:
        ArtifactError: the weights are missing or damaged.
    """
    register_architecture()
    teacher = load_clip(f"open_clip:{ARCHITECTURE}/{WEIGHTS}")
    teacher.name = "pocket"
    return teacher


def register_architecture() -> None:
    """Tell open_clip of the architecture ``ezsd_pocket``, so that ``open_clip:ezsd_pocket/FILE`` can be loaded."""
    if ARCHITECTURE not in open_clip.list_models():
        open_clip.add_model_config(FOLDER / f"{ARCHITECTURE}.json")


@register_model
def ezsd_pocket_resnet(pretrained: bool = False, num_classes: int = 0, **_: Any) -> ResNet:
    """A ResNet of four basic blocks, made for dense reading: a cell of its last map stands for 16 pixels and sees 87.

    The deep convolutions are 1x1: what a cell tells is about its own place, so that the mean over a box tells of what
    is in the box (the idea of BagNet, Brendel and Bethge 2019).
    """
    if pretrained:
        raise ValueError("ezsd_pocket_resnet has no weights of its own; they are part of the Pocket CLIP")
    block: Any = BasicBlock  # timm's hints ask for an instance where it takes the class
    model: Any = ResNet(
        block, (1, 1, 1, 1), num_classes=num_classes, channels=(64, 128, 256, 384), output_stride=16,
        stem_type="deep_tiered", stem_width=24, avg_down=True,
    )  # fmt: skip
    for convolution, layer in (("conv2", model.layer3), ("conv1", model.layer4), ("conv2", model.layer4)):
        old = getattr(layer[0], convolution)
        setattr(layer[0], convolution, nn.Conv2d(old.in_channels, old.out_channels, 1, bias=False))
    model.default_cfg = {}  # open_clip asks it for a fixed size of the last map; there is none
    return model
