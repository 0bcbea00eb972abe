"""The Pocket CLIP: a small open_clip model of OpenMoji pictograms and their names, shipped with its weights.

It loads like any other CLIP: an open_clip architecture (registered here) and a local checkpoint. It was trained on
single pictograms and their names (``ezsd pocket-teacher``; see weights.json), including the novel names of the split
``pocket``, just as the training data of CLIP include many novel categories.
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
WEIGHTS = FOLDER / "weights.safetensors"  # written by `ezsd pocket-teacher`; weights.json has the details


def load_pocket() -> ClipTeacher:
    """Load the packaged weights.

    Raises:
        ArtifactError: If the weights are missing or damaged.
    """
    register_architecture()
    teacher = load_clip(f"open_clip:{ARCHITECTURE}/{WEIGHTS}")
    teacher.name = "pocket"
    return teacher


def register_architecture() -> None:
    """Register the architecture ``ezsd_pocket`` with open_clip, so that ``open_clip:ezsd_pocket/FILE`` loads."""
    if ARCHITECTURE not in open_clip.list_models():
        open_clip.add_model_config(FOLDER / f"{ARCHITECTURE}.json")


@register_model
def ezsd_pocket_resnet(pretrained: bool = False, num_classes: int = 0, **_: Any) -> ResNet:
    """Return a ResNet of four basic blocks for dense embeddings: stride 16, receptive field 87 pixels.

    The deep convolutions are 1x1, which keeps the receptive field small, so the mean over a box describes the content
    of the box (as in BagNet, Brendel and Bethge 2019).
    """
    if pretrained:
        raise ValueError("ezsd_pocket_resnet has no pretrained weights; its weights are part of the Pocket CLIP")
    block: Any = BasicBlock  # timm's type hints ask for an instance, but it takes the class
    model: Any = ResNet(
        block, (1, 1, 1, 1), num_classes=num_classes, channels=(64, 128, 256, 384), output_stride=16,
        stem_type="deep_tiered", stem_width=24, avg_down=True,
    )  # fmt: skip
    for convolution, layer in (("conv2", model.layer3), ("conv1", model.layer4), ("conv2", model.layer4)):
        old = getattr(layer[0], convolution)
        setattr(layer[0], convolution, nn.Conv2d(old.in_channels, old.out_channels, 1, bias=False))
    model.default_cfg = {}  # open_clip reads a fixed size of the last feature map from it; this model has none
    return model
