"""Image features: a timm backbone and a feature pyramid."""

from __future__ import annotations

import difflib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from ezsd.errors import ArtifactError, RecipeError
from ezsd.utils.depthwise import train_depthwise_in_float32
from ezsd.utils.packaged_weights import packaged_image_tower

# Backbones whose levels and frozen layers are tested; other timm models are checked before a run starts.
CHECKED_BACKBONES = (
    "resnet50", "tf_efficientnet_lite0", "convnext_tiny", "efficientnet_b0", "efficientnet_b3",
    "mobilenetv4_conv_small", "mobilenetv4_conv_medium",
)  # fmt: skip
STRIDES = (4, 8, 16, 32)
_PACKAGED = "tf_efficientnet_lite0"  # its weights come from an installed package
_PACKAGED_STATISTICS = ((127 / 255,) * 3, (128 / 255,) * 3)  # of RGB values in 0..1
_WEIGHTS = {"resnet50": "resnet50.tv_in1k"}  # other names have the default weights of timm
_PROBE_SIZE = (64, 96)  # not square, so that models with a fixed input size are detected
_PROBE_ERRORS = (RuntimeError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


class Backbone(nn.Module):
    """Backbone (strides 4 to 32) and FPN: levels "0".."3" at strides 4, 8, 16, 32 and "pool" at stride 64.

    With four levels, the pyramid starts with level "1": the level at stride 4 takes most of the time of FPN and RPN,
    and only small objects need it.

    Running statistics of batch norm are frozen. With pretrained weights, the layers up to stride 4 are frozen too.

    Args:
        name: The name of a timm model, with or without the tag of its weights; see :func:`check_backbone`.
        fpn_channels: Number of channels of every level.
        pretrained: Whether to start from ImageNet weights.
        levels: Number of levels, 5 or 4 (without stride 4).

    Raises:
        RecipeError: If the model does not exist or has no feature pyramid.
        ArtifactError: If the weights cannot be loaded or downloaded.
    """

    def __init__(self, name: str, fpn_channels: int, pretrained: bool, levels: int = 5) -> None:
        super().__init__()
        self._first_layers = _layout(name).first_layers
        self.first_level = 5 - levels
        self.body = _pretrained_body(name, self.first_level) if pretrained else _body(name, self.first_level)
        train_depthwise_in_float32(self.body)
        self.fpn = FeaturePyramidNetwork(
            self.body.feature_info.channels(), fpn_channels, extra_blocks=LastLevelMaxPool()
        )
        self.out_channels = fpn_channels
        mean, std = input_statistics(name)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        if pretrained:
            self.freeze_first_layers()

    def freeze_first_layers(self) -> None:
        """Freeze stem and first stage (stride <= 4), whose low-level features transfer to any image."""
        for name, parameter in self.body.named_parameters():
            if name in self._first_layers:
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode; batch norm layers stay in evaluation mode."""
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the levels of the pyramid for images [B, 3, H, W] in 0..1 (H and W multiples of 32)."""
        levels = self.body((images - self.mean) / self.std)
        pyramid: dict[str, Tensor] = self.fpn({str(i): level for i, level in enumerate(levels, self.first_level)})
        return pyramid


def check_backbone(name: str, pretrained: bool) -> None:
    """Check that a timm model exists, has features at strides 4 to 32 for images of any size, and has weights.

    No weights are loaded, and no memory is allocated for the model.

    Raises:
        RecipeError: The model cannot be used; the message says why.
    """
    _layout(name)
    if pretrained and name != _PACKAGED and not _config(name).has_weights:
        raise RecipeError(
            f"detector.backbone = {name!r}: timm has no pretrained weights for it. Set detector.pretrained: false, or "
            f"choose one of {', '.join(CHECKED_BACKBONES)}."
        )


def input_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of RGB values in 0..1 that the weights of a backbone expect."""
    if name == _PACKAGED:
        return _PACKAGED_STATISTICS
    config = _config(name)
    return tuple(config.mean), tuple(config.std)


@dataclass(frozen=True)
class _Layout:
    """The features of a timm model: the levels at strides 4 to 32, and the parameters before them.

    Attributes:
        indices: timm's index of the level of each of ``STRIDES``.
        first_layers: The names of the parameters that the level at stride 4 depends on.
    """

    indices: tuple[int, ...]
    first_layers: frozenset[str]


@lru_cache
def _layout(name: str) -> _Layout:
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"Checked models: {', '.join(CHECKED_BACKBONES)}."
        raise RecipeError(f"detector.backbone = {name!r}: timm has no model of this name. {hint}")
    try:
        _config(name)  # raises if the tag of the weights is unknown
        # On the meta device, tensors have shapes and gradients, but no memory.
        with torch.device("meta"), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of timm, about deprecated names
            body = timm.create_model(name, features_only=True).eval()
            return _checked_layout(body, body(torch.empty(1, 3, *_PROBE_SIZE)))
    except _PROBE_ERRORS as error:
        reason = (str(error) or f"{type(error).__name__} in timm").splitlines()[0].rstrip(".")
        raise RecipeError(
            f"detector.backbone = {name!r} cannot be used: {reason}. Expected a timm model with features at strides "
            f"{', '.join(map(str, STRIDES))} for images of any size, such as {', '.join(CHECKED_BACKBONES)}."
        ) from None


def _checked_layout(body: Any, levels: list[Tensor]) -> _Layout:
    """Return the layout of a model; raise ValueError if its levels have other strides or shapes."""
    strides = [int(stride) for stride in body.feature_info.reduction()]
    if missing := [str(stride) for stride in STRIDES if stride not in strides]:
        raise ValueError(f"its features have strides {', '.join(map(str, strides))}; {', '.join(missing)} is missing")
    places = [max(place for place, found in enumerate(strides) if found == stride) for stride in STRIDES]
    for place, stride in zip(places, STRIDES, strict=True):
        expected = (body.feature_info.channels()[place], *(side // stride for side in _PROBE_SIZE))
        if tuple(levels[place].shape[1:]) != expected:
            raise ValueError(
                f"its features at stride {stride} have shape {list(levels[place].shape[1:])} for an image of "
                f"{_PROBE_SIZE}; {list(expected)} is needed"
            )
    named = dict(body.named_parameters())
    gradients = torch.autograd.grad(levels[places[0]].sum(), list(named.values()), allow_unused=True)
    first = {name: value for (name, value), grad in zip(named.items(), gradients, strict=True) if grad is not None}
    if 4 * sum(value.numel() for value in first.values()) > sum(value.numel() for value in named.values()):
        first = {}  # the level at stride 4 is computed from the others (HRNet): there are no first layers to freeze
    return _Layout(tuple(body.feature_info.out_indices[place] for place in places), frozenset(first))


def _config(name: str) -> Any:
    """Return timm's description of the weights; models without weights have the default one."""
    return timm.get_pretrained_cfg(_WEIGHTS.get(name, name)) or timm.models.PretrainedCfg()


def _body(name: str, first_level: int = 0, **options: Any) -> Any:
    indices = _layout(name).indices
    return timm.create_model(name, features_only=True, out_indices=indices[first_level:], **options)


def _pretrained_body(name: str, first_level: int) -> Any:
    if name == _PACKAGED:
        body = _body(name, first_level)
        body.load_state_dict(packaged_image_tower().state_dict(), strict=False)
        return body
    try:
        return _body(_WEIGHTS.get(name, name), first_level, pretrained=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).rstrip(".")
        raise ArtifactError(
            f"The ImageNet weights of {name} cannot be downloaded: {reason}. Connect to the internet for the "
            "first run, or set detector.backbone: tf_efficientnet_lite0 (weights from a package), or "
            "detector.pretrained: false."
        ) from error
