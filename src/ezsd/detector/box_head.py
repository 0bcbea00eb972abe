"""The box head: computes a region embedding and box deltas from pooled features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BoxHead(nn.Module):
    """Shared convolutions, followed by a branch for the region embedding and a branch for the box.

    The last hidden layer of the box branch takes the concatenation of the region feature and the text embedding of the
    region's name, so the regression depends on the meaning of the name (METHOD: semantic regression).

    Args:
        channels: Number of channels of the pooled features.
        roi_size: Side of the pooled features.
        embedding_dim: D, the dimension of text embeddings.
        convs: Number of shared 3x3 convolutions.
        width: Number of channels of the convolutions.
        hidden: Number of units of the hidden layers of both branches.
        semantic: Whether the box branch takes text embeddings.
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
        # From zero, only the directions spanned by the names of training get weights, so a new name adds no noise.
        with torch.no_grad():
            guided.weight[:, hidden:] = 0
        self.to_deltas = nn.Sequential(nn.Sequential(guided, nn.ReLU()), _output(hidden, 4))

    def embed(self, shared: Tensor) -> Tensor:
        """Return region embeddings [N, D], unit length, of shared features [N, width, S, S]."""
        return F.normalize(self.to_embedding(shared).float(), dim=1)

    def deltas(self, box_features: Tensor, text: Tensor) -> Tensor:
        """Return class-agnostic box deltas [N, 4].

        Args:
            box_features: [N, hidden], from ``to_box_features``.
            text: [N, D] text embedding of each region's name; zeros for regions without a name.
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
