"""The backbone: strides of the levels, pretrained weights, frozen layers."""

from __future__ import annotations

import pytest
import torch

from ezsd.detector.backbone import Backbone
from ezsd.utils.packaged_weights import packaged_image_tower


@pytest.mark.parametrize("name", ["resnet50", "tf_efficientnet_lite0"])
def test_levels_have_strides_4_to_64(name: str) -> None:
    levels = Backbone(name, 8, pretrained=False).eval()(torch.rand(1, 3, 128, 192))
    assert [tuple(level.shape) for level in levels.values()] == [
        (1, 8, 32, 48), (1, 8, 16, 24), (1, 8, 8, 12), (1, 8, 4, 6), (1, 8, 2, 3)
    ]  # fmt: skip


def test_pretrained_backbone_has_the_weights_of_the_package_and_frozen_first_layers() -> None:
    backbone = Backbone("tf_efficientnet_lite0", 8, pretrained=True)
    packaged = packaged_image_tower().state_dict()
    for name, value in backbone.body.state_dict().items():
        assert torch.equal(value, packaged[name]), name
    frozen = {name.split(".")[0:2][-1] for name, p in backbone.body.named_parameters() if not p.requires_grad}
    trained = {name.split(".")[1] for name, p in backbone.body.named_parameters() if p.requires_grad}
    assert frozen >= {"0", "1"} and trained == {"2", "3", "4", "5", "6"}
