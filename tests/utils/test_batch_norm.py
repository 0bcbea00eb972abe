from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ezsd.detector.backbone import Backbone
from ezsd.utils.batch_norm import fold_batch_norms

EXAMPLE = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def _with_statistics(model: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights that are not those of a new layer."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return model.eval()


@pytest.mark.parametrize(("name", "norms"), [("resnet18", 20), ("tf_efficientnet_lite0", 48), ("convnext_atto", 0)])
def test_outputs_are_the_same(name: str, norms: int) -> None:
    body = _with_statistics(Backbone(name, 32, pretrained=False).body)
    other = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        expected = body(other)
        assert fold_batch_norms(body, EXAMPLE) == norms
        assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
        for level, wanted in zip(body(other), expected, strict=True):
            assert float((level - wanted).abs().max() / wanted.abs().max()) < 1e-4


class Shared(nn.Module):
    """Uses the output of a convolution beside its norm, or in two norms, or a convolution twice."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.conv, self.norm, self.use = nn.Conv2d(3, 3, 3, padding=1, bias=use != "two norms"), nn.BatchNorm2d(3), use
        if use == "two norms":
            self.other = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        found: Tensor = self.norm(features)
        if self.use == "two norms":
            return found + self.other(features)
        return found + (self.conv(found) if self.use == "twice" else features)


@pytest.mark.parametrize("use", ["beside", "twice", "two norms"])
def test_a_convolution_with_other_users_is_left_alone(use: str) -> None:
    model = _with_statistics(Shared(use))
    before, expected = copy.deepcopy(model.state_dict()), model(EXAMPLE)
    assert fold_batch_norms(model, EXAMPLE) == 0
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(model(EXAMPLE), expected)
