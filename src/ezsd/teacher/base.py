"""What every teacher can do, and the little that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from typing_extensions import Self

from ezsd.utils.files import digest

_NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)


@runtime_checkable
class Teacher(Protocol):
    """A vision-language model: crops and names as unit vectors of one space.

    A teacher is frozen when it is made (no parameter requires a gradient, statistics of BatchNorm never move);
    stage adapt switches on what :meth:`norm_parameters` gives, and gradients then flow through both ``encode_*``.

    Attributes:
        name: as in the recipe.
        embedding_dim: D, the length of an embedding.
        input_size: side of a crop, pixels.
        logit_scale: multiplies cosines to make logits.
        weights_digest: digest of the weights as they were loaded, before any adaptation.
    """

    name: str
    embedding_dim: int
    input_size: int
    logit_scale: float
    weights_digest: str

    @property
    def fingerprint(self) -> str:
        """Digest of the weights, adapted norms included; the key of what was computed with them."""

    def encode_names(self, texts: Sequence[str]) -> Tensor:
        """Finished texts ("a photo of a cat") -> ``[C, D]`` unit length."""

    def encode_crops(self, crops: Tensor) -> Tensor:
        """Crops ``[N, 3, S, S]``, values 0..1, S = input_size -> ``[N, D]`` unit length."""

    def dense_embeddings(self, image: Tensor, boxes: Tensor, sides: Sequence[int]) -> Tensor:
        """Embed many boxes of an image for the price of a few crops.

        Args:
            image: ``[3, H, W]``, values 0..1.
            boxes: ``[N, 4]`` xyxy, pixels of ``image``.
            sides: long sides (pixels) at which the whole image is seen. Each box is read, as the mean of the
                features it covers, at the scale where its longer side comes nearest to input_size.

        Returns:
            ``[N, D]`` unit length.
        """

    def norm_parameters(self, towers: Sequence[str] = ("image", "text")) -> dict[str, nn.Parameter]:
        """Weights and biases of the normalisation layers; names start with the tower."""

    def to(self, device: str) -> Self:
        """Move both towers to ``device``."""


def norms_of(module: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    """Affine parameters of every LayerNorm, BatchNorm and GroupNorm in ``module``, by type and never by name."""
    return {
        f"{prefix}.{path}.{kind}" if path else f"{prefix}.{kind}": parameter
        for path, layer in module.named_modules()
        if isinstance(layer, _NORMS)
        for kind, parameter in layer.named_parameters(recurse=False)
    }


def fingerprint_of(weights_digest: str, norms: dict[str, nn.Parameter]) -> str:
    """Digest of loaded weights and of the norm parameters as they are now."""
    values = (parameter.detach().cpu().float().numpy().tobytes() for parameter in norms.values())
    return digest(weights_digest, *values)


def frozen(module: Any) -> Any:
    """Put ``module`` in evaluation mode, without gradients."""
    return module.eval().requires_grad_(False)
