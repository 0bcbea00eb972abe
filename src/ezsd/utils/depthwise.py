"""Depthwise convolutions in float32 for training on CPUs, where their half-precision gradients are far slower."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def train_depthwise_in_float32(model: nn.Module) -> None:
    """Exclude grouped convolutions from autocast in training on CPUs, in place.

    The class of the modules changes, so that the names of their parameters do not.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.__class__ = _in_float32(type(module))


def _in_float32(kind: Any) -> Any:
    """Return the subclass of a convolution class that runs in float32 if gradients are needed."""

    class Float32Conv(kind):
        def forward(self, features: Tensor) -> Any:
            trained = torch.is_grad_enabled() and (features.requires_grad or self.weight.requires_grad)
            if features.device.type != "cpu" or not trained:
                return super().forward(features)
            with torch.autocast("cpu", enabled=False):
                return super().forward(features.float())

    return Float32Conv
