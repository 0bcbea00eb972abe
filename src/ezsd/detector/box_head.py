"""The box head: from pooled features to a region embedding and a box."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BoxHead(nn.Module):
    """Shared convolutions, then a branch to the region embedding and one to the box.

    The box branch sees [region feature ; text embedding of the region's name] before its last hidden
    layer, so that the meaning of the name guides the regression (METHOD: semantic regression).

    Args:
        channels: of the pooled features.
        roi_size: side of the pooled features.
        embedding_dim: D of the text embeddings.
        convs: number of shared 3x3 convolutions.
        width: channels of the convolutions.
        hidden: units of the hidden layers of both branches.
        semantic: whether the box branch sees text.
    """

    def __init__(
        self, channels: int, roi_size: int, embedding_dim: int, convs: int, width: int, hidden: int, semantic: bool
    ) -> None:
        super().__init__()
        self.semantic = semantic
        self.shared = nn.Sequential(*(_conv(channels if i == 0 else width, width) for i in range(convs)))
        flat = width * roi_size**2
        self.to_embedding = nn.Sequential(
            _conv(width, width),
            nn.Flatten(),
            _linear(flat, hidden),
            _linear(hidden, hidden),
            _output(hidden, embedding_dim),
        )
        self.to_box_features = nn.Sequential(_conv(width, width), nn.Flatten(), _linear(flat, hidden))
        guided = nn.Linear(hidden + (embedding_dim if semantic else 0), hidden)
        with torch.no_grad():  # so that of a new name only what it shares with the names of training counts, not chance
            guided.weight[:, hidden:] = 0
        self.to_deltas = nn.Sequential(nn.Sequential(guided, nn.ReLU()), _output(hidden, 4))

    def embed(self, shared: Tensor) -> Tensor:
        """Return region embeddings [N, D], unit length, from shared features [N, width, S, S]."""
        return F.normalize(self.to_embedding(shared).float(), dim=1)

    def deltas(self, box_features: Tensor, text: Tensor) -> Tensor:
        """Return class-agnostic box deltas [N, 4].

        Args:
            box_features: [N, hidden], from ``to_box_features``.
            text: [N, D] text embedding of each region's name; zeros where there is none.
        """
        if self.semantic:
            box_features = torch.cat([box_features, text.to(box_features.dtype)], dim=1)
        deltas: Tensor = self.to_deltas(box_features)
        return deltas.float()


def _conv(channels: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU())


def _linear(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


def _output(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer
