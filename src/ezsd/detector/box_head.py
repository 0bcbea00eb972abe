"""The box head: computes a region embedding and box deltas from pooled features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ezsd.recipe import DetectorConfig


class BoxHead(nn.Module):
    """Shared convolutions, followed by a branch for the region embedding and a branch for the box.

    The last hidden layer of the box branch takes the concatenation of the region feature and the text embedding of the
    region's name, so the regression depends on the meaning of the name (METHOD: semantic regression). With
    ``semantic_placement: after``, as published, the output layer takes the text instead, and can only add an offset for
    each name.

    Args:
        channels: Number of channels of the pooled features.
        embedding_dim: D, the dimension of text embeddings.
        config: The recipe's section ``detector``; uses roi_size, head_convs, head_channels, head_features,
            semantic_regression, semantic_placement and box_quality.
    """

    def __init__(self, channels: int, embedding_dim: int, config: DetectorConfig) -> None:
        super().__init__()
        width, hidden, roi_size, convs = config.head_channels, config.head_features, config.roi_size, config.head_convs
        self.semantic = config.semantic_regression
        self.text_layer = (
            0 if config.semantic_placement == "before" else 1
        )  # the layer of to_deltas that takes the text
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
        inputs = [hidden, hidden]
        inputs[self.text_layer] += embedding_dim if self.semantic else 0
        last_hidden, output = nn.Linear(inputs[0], hidden), _output(inputs[1], 4)
        # From zero, only the directions spanned by the names of training get weights, so a new name adds no noise.
        with torch.no_grad():
            for layer in (last_hidden, output):
                layer.weight[:, hidden:] = 0
        self.to_deltas = nn.Sequential(nn.Sequential(last_hidden, nn.ReLU()), output)
        self.to_quality = _output(hidden, 1) if config.box_quality else None

    def embed(self, shared: Tensor) -> Tensor:
        """Return region embeddings [N, D], unit length, of shared features [N, width, S, S]."""
        return F.normalize(self.to_embedding(shared).float(), dim=1)

    def deltas(self, box_features: Tensor, text: Tensor) -> Tensor:
        """Return class-agnostic box deltas [N, 4].

        Args:
            box_features: [N, hidden], from ``to_box_features``.
            text: [N, D] text embedding of each region's name; zeros for regions without a name.
        """
        deltas = box_features
        for index, layer in enumerate(self.to_deltas):
            if self.semantic and index == self.text_layer:
                deltas = torch.cat([deltas, text.to(deltas.dtype)], dim=1)
            deltas = layer(deltas)
        return deltas.float()

    def deltas_of_pairs(self, box_features: Tensor, text: Tensor, region: Tensor, name: Tensor) -> Tensor:
        """Return class-agnostic box deltas [P, 4] of pairs of a region and a name.

        The layer that takes both is the sum of a part of the region and a part of the name, so that each is computed
        once and not for every pair.

        Args:
            box_features: [N, hidden], from ``to_box_features``.
            text: [C, D] text embeddings.
            region: [P] rows of ``box_features``.
            name: [P] rows of ``text``.
        """
        if not self.semantic:
            return self.deltas(box_features, text[:0])[region]
        layers: Any = self.to_deltas
        (linear, activation), output = layers
        if self.text_layer == 0:
            deltas = output(activation(_of_pairs(linear, box_features, text, region, name)))
        else:
            deltas = _of_pairs(output, activation(linear(box_features)), text, region, name)
        return deltas.float()

    def quality(self, box_features: Tensor) -> Tensor:
        """Return the logit [N] of the predicted IoU of each region's box with its object."""
        if self.to_quality is None:
            raise ValueError("the head has no quality branch (detector.box_quality)")
        logits: Tensor = self.to_quality(box_features)[:, 0]
        return logits.float()


def _of_pairs(layer: nn.Linear, features: Tensor, text: Tensor, region: Tensor, name: Tensor) -> Tensor:
    """Return what a layer computes from the concatenated features of a region and text of a name, for pairs of them."""
    of_regions, of_names = layer.weight.split([features.shape[1], text.shape[1]], dim=1)
    used, place = name.unique(return_inverse=True)  # of many names, few are in a pair
    return F.linear(features, of_regions, layer.bias)[region] + F.linear(text[used].to(features.dtype), of_names)[place]


def _conv(channels: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU())


def _linear(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


def _output(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer
