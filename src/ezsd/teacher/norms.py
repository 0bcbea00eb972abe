"""Copy, interpolate, save and load the norm parameters of a teacher, with a digest of the weights they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ezsd.errors import ArtifactError
from ezsd.teacher.base import Teacher
from ezsd.utils.files import read_tensors, write_tensors


def copy_norms(teacher: Teacher, towers: Sequence[str]) -> dict[str, Tensor]:
    """Return copies of the norm parameters of ``towers``, by name."""
    return {name: value.detach().clone() for name, value in teacher.norm_parameters(towers).items()}


def interpolate_norms(raw: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return ``raw + share * (trained - raw)`` for each parameter; exact for share 0 and share 1."""
    return {name: torch.lerp(value, trained[name], share) for name, value in raw.items()}


@torch.no_grad()
def set_norms(teacher: Teacher, values: Mapping[str, Tensor]) -> None:
    """Copy ``values`` into the norm parameters of ``teacher`` with the same names."""
    parameters = teacher.norm_parameters()
    for name, value in values.items():
        parameters[name].copy_(value)


def save_norms(teacher: Teacher, path: Path, towers: Sequence[str]) -> None:
    """Write the norm parameters of ``towers`` as safetensors; the metadata identify the weights they belong to."""
    metadata = {"teacher": teacher.name, "weights_digest": teacher.weights_digest, "towers": json.dumps(list(towers))}
    write_tensors(path, dict(teacher.norm_parameters(towers)), metadata)


def load_norms(teacher: Teacher, path: Path) -> None:
    """Load saved norm parameters into ``teacher``, bit-identically.

    Raises:
        ArtifactError: If the file is missing or damaged, or belongs to another teacher.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("weights_digest") != teacher.weights_digest:
        raise ArtifactError(
            f"{path} belongs to the teacher {metadata.get('teacher', 'unknown')}, not to these weights of "
            f"{teacher.name}. Run stage adapt again, or use the teacher that was adapted."
        )
    parameters = teacher.norm_parameters()
    wrong = [name for name, value in tensors.items() if name not in parameters or parameters[name].shape != value.shape]
    if wrong:
        raise ArtifactError(
            f"{path} contains parameters that {teacher.name} does not have: {', '.join(wrong)}. Run stage adapt again."
        )
    set_norms(teacher, tensors)
