"""The teacher protocol, and helper functions shared by all teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from typing_extensions import Self

from ezsd.errors import RecipeError
from ezsd.utils.files import digest

DEFAULT_READING = "block"
_NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)


@runtime_checkable
class Teacher(Protocol):
    """A vision-language model that embeds crops and names as unit vectors in one space.

    A teacher is frozen when it is loaded (no parameter requires a gradient, BatchNorm statistics never change).
    Stage adapt enables gradients for the parameters from :meth:`norm_parameters`; both ``encode_crops`` and
    ``encode_names`` are then differentiable.

    Attributes:
        name: The name in the recipe.
        embedding_dim: D, the dimension of embeddings.
        input_size: Side of a crop, in pixels.
        logit_scale: Factor that turns cosines into logits.
        weights_digest: Digest of the loaded weights, before any adaptation.
    """

    name: str
    embedding_dim: int
    input_size: int
    logit_scale: float
    weights_digest: str

    @property
    def fingerprint(self) -> str:
        """Digest of the weights, including adapted norms; used as a key for cached results."""

    def encode_names(self, texts: Sequence[str]) -> Tensor:
        """Embed complete texts ("a photo of a cat") as ``[C, D]``, unit length."""

    def encode_crops(self, crops: Tensor) -> Tensor:
        """Embed crops ``[N, 3, S, S]``, values 0..1, S = input_size, as ``[N, D]``, unit length."""

    def dense_embeddings(self, image: Tensor, boxes: Tensor, sides: Sequence[int]) -> Tensor:
        """Embed many boxes of an image at the cost of a few crops.

        Args:
            image: ``[3, H, W]``, values 0..1.
            boxes: ``[N, 4]`` xyxy, pixels of ``image``.
            sides: Long sides (pixels) that the image is resized to. Each box is embedded, as the mean of the features
                it covers, at the scale where its longer side is closest to input_size.

        Returns:
            ``[N, D]``, unit length.
        """

    def norm_parameters(self, towers: Sequence[str] = ("image", "text")) -> dict[str, nn.Parameter]:
        """Return the weights and biases of the normalization layers; names start with the tower."""

    def to(self, device: str) -> Self:
        """Move both towers to ``device``."""


@runtime_checkable
class HasReadings(Protocol):
    """A teacher with several dense readings. A :class:`Teacher` without this protocol has one.

    Attributes:
        dense_readings: The names of its readings, the default first.
    """

    dense_readings: tuple[str, ...]

    def with_dense_reading(self, reading: str) -> Teacher:
        """Return this teacher with another reading in ``dense_embeddings``. Both share their weights."""


def dense_readings(teacher: Teacher) -> tuple[str, ...]:
    """Return the names of the dense readings of a teacher, the default first."""
    return teacher.dense_readings if isinstance(teacher, HasReadings) else (DEFAULT_READING,)


def with_dense_reading(teacher: Teacher, reading: str) -> Teacher:
    """Return the teacher with another reading in ``dense_embeddings``.

    Raises:
        RecipeError: If the teacher does not have this reading.
    """
    known = dense_readings(teacher)
    if reading not in known:
        raise RecipeError(
            f"propose.dense_reading: the teacher {teacher.name} has no reading {reading}. Set it to "
            f"{' or '.join(known)}."
        )
    return teacher.with_dense_reading(reading) if isinstance(teacher, HasReadings) else teacher


def check_dense(teacher: Any) -> None:
    """Raise RecipeError if the teacher is known to be unable to embed many boxes of an image in one pass."""
    refuse_dense(teacher.name, getattr(teacher, "dense_problem", ""))


def refuse_dense(name: str, problem: str) -> None:
    """Raise RecipeError if there is a problem: why a teacher cannot embed many boxes in one pass; empty if it can."""
    if problem:
        raise RecipeError(
            f"teacher: {name} cannot embed many boxes in one pass: {problem}. Set propose.scoring: exhaustive, "
            "which crops every box and is slower, or choose another teacher (docs/teachers.md)."
        )


def norms_of(module: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    """Return the affine parameters of every LayerNorm, BatchNorm and GroupNorm in ``module``, found by type."""
    return {
        f"{prefix}.{path}.{kind}" if path else f"{prefix}.{kind}": parameter
        for path, layer in module.named_modules()
        if isinstance(layer, _NORMS)
        for kind, parameter in layer.named_parameters(recurse=False)
    }


def fingerprint_of(weights_digest: str, norms: dict[str, nn.Parameter]) -> str:
    """Return the digest of the loaded weights and of the current norm parameters."""
    values = (parameter.detach().cpu().float().numpy().tobytes() for parameter in norms.values())
    return digest(weights_digest, *values)


def frozen(module: Any) -> Any:
    """Put ``module`` in evaluation mode and disable gradients."""
    return module.eval().requires_grad_(False)
