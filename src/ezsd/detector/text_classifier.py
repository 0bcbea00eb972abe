"""Classify regions by their cosine similarity with text embeddings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MOST_CHANGE = 4.0  # of the logit scale in training


class TextClassifier(nn.Module):
    """Cosine classifier with a learned background embedding and a learned logit scale.

    Args:
        embedding_dim: D, the dimension of text and region embeddings.
        logit_scale: Initial value of the factor that is multiplied with the cosines. In training it stays between a
            quarter and four times this value; with SGD it can collapse otherwise.
    """

    def __init__(self, embedding_dim: int, logit_scale: float = 100.0) -> None:
        super().__init__()
        self.background_embedding = nn.Parameter(torch.randn(1, embedding_dim) * embedding_dim**-0.5)
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))
        self._bounds = (math.log(logit_scale / _MOST_CHANGE), math.log(logit_scale * _MOST_CHANGE))

    def forward(self, region_embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return logits [N, 1 + C]; column 0 is the background.

        Args:
            region_embeddings: [N, D], unit length.
            text_embeddings: [C, D], unit length, any vocabulary.
        """
        if self.training:
            with torch.no_grad():
                self.log_logit_scale.clamp_(*self._bounds)
        background = F.normalize(self.background_embedding, dim=1)
        names = torch.cat([background, text_embeddings.to(background.dtype)])
        if self.training:
            return self.log_logit_scale.exp() * (region_embeddings @ names.T)
        # Cosines are multiplied by about 100, so half precision would change scores. Regions are multiplied, because
        # there are fewer of their values than logits of thousands of names.
        with torch.autocast(names.device.type, enabled=False):
            return (self.log_logit_scale.exp() * region_embeddings) @ names.T
