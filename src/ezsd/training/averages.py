"""Exponential moving averages of weights. They are often more accurate than the weights of the last step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverages:
    """Moving averages of the trained parameters of a model.

    Args:
        model: The model, on its device. Frozen parameters and buffers are not averaged.
        decay: The share of the old average in the new one, in 0..1. It is lower in the first steps, so that the
            initial weights are soon forgotten.

    Attributes:
        tensors: The averages by name, to be saved in checkpoints and restored in place.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.tensors = {f"average.{name}": parameter.detach().clone() for name, parameter in trained.items()}
        self._parameters: list[Tensor] = list(trained.values())
        self._averages = list(self.tensors.values())

    def update(self, steps: int) -> None:
        """Add the current weights to the averages, after ``steps`` completed steps."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        get_ema_multi_avg_fn(decay)(self._averages, self._parameters, steps)

    @torch.no_grad()
    def apply(self) -> None:
        """Set the weights of the model to the averages."""
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            parameter.copy_(average)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the weights of the model to the averages within a ``with`` block."""
        weights = [parameter.detach().clone() for parameter in self._parameters]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self._parameters, weights, strict=True):
                    parameter.copy_(value)
