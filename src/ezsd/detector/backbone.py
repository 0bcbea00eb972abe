"""Image features: a timm backbone and a feature pyramid."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from ezsd.errors import ArtifactError
from ezsd.utils.packaged_weights import packaged_image_tower

# Image mean and standard deviation for RGB values in 0..1.
INPUT_STATISTICS = {
    "resnet50": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tf_efficientnet_lite0": ((127 / 255,) * 3, (128 / 255,) * 3),
}
# Name prefixes of the parameters up to stride 4, for both backbones.
FIRST_LAYERS = ("conv1.", "bn1.", "layer1.", "conv_stem.", "blocks.0.", "blocks.1.")


class Backbone(nn.Module):
    """Backbone (strides 4 to 32) and FPN: levels "0".."3" at strides 4, 8, 16, 32 and "pool" at stride 64.

    Running statistics of batch norm are frozen. With pretrained weights, the layers up to stride 4 are frozen too.

    Args:
        name: ``resnet50`` or ``tf_efficientnet_lite0``.
        fpn_channels: Number of channels of every level.
        pretrained: Whether to start from ImageNet weights.

    Raises:
        ArtifactError: If the weights cannot be loaded or downloaded.
    """

    def __init__(self, name: str, fpn_channels: int, pretrained: bool) -> None:
        super().__init__()
        self.body = _pretrained_body(name) if pretrained else _body(name)
        self.fpn = FeaturePyramidNetwork(
            self.body.feature_info.channels(), fpn_channels, extra_blocks=LastLevelMaxPool()
        )
        self.out_channels = fpn_channels
        mean, std = INPUT_STATISTICS[name]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        if pretrained:
            _freeze_first_layers(self.body)

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode; batch norm layers stay in evaluation mode."""
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the levels of the pyramid for images [B, 3, H, W] in 0..1 (H and W multiples of 32)."""
        # On CPUs, gradients of depthwise convolutions are several times slower in half precision than in float32.
        with torch.autocast("cpu", enabled=False):
            levels = self.body((images - self.mean) / self.std)
        pyramid: dict[str, Tensor] = self.fpn({str(index): level for index, level in enumerate(levels)})
        return pyramid


def _body(name: str, **options: Any) -> Any:
    return timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4), **options)


def _pretrained_body(name: str) -> Any:
    if name == "tf_efficientnet_lite0":
        body = _body(name)
        body.load_state_dict(packaged_image_tower().state_dict(), strict=False)
        return body
    try:
        return _body(f"{name}.tv_in1k", pretrained=True)
    except (OSError, RuntimeError) as error:
        raise ArtifactError(
            f"The ImageNet weights of {name} cannot be downloaded: {error}. Connect to the internet for the "
            "first run, or set detector.backbone: tf_efficientnet_lite0 (weights from a package), or "
            "detector.pretrained: false."
        ) from error


def _freeze_first_layers(body: nn.Module) -> None:
    """Freeze stem and first stage (stride <= 4), whose low-level features transfer to any image."""
    for name, parameter in body.named_parameters():
        if name.startswith(FIRST_LAYERS):
            parameter.requires_grad_(False)
