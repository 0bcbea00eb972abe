"""Names files: text embeddings of names beside an ONNX model, so that no teacher is needed; without torch."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ezsd.errors import ArtifactError
from ezsd.utils.files import written_whole
from ezsd.utils.format import shell_quoted

Embeddings = Mapping[str, "np.ndarray[Any, Any]"]


def names_file_of(model: Path) -> Path:
    """Return the names file of an ONNX model: ``model.names.npz`` beside ``model.onnx``."""
    return model.with_suffix(".names.npz")


def write_names(path: Path, embeddings: Embeddings, model_id: str) -> None:
    """Write a names file.

    Args:
        path: The file (.npz).
        embeddings: The text embedding [D] of each name.
        model_id: Identifies the model whose embeddings these are.

    Raises:
        ArtifactError: The file cannot be written.
    """
    rows = np.stack(list(embeddings.values())).astype(np.float32)
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, names=np.array(list(embeddings), dtype=str), embeddings=rows, model_id=model_id)


def read_names(path: Path, model_id: str) -> Embeddings:
    """Read a names file.

    Args:
        path: The file.
        model_id: The model that the embeddings must be of.

    Raises:
        ArtifactError: The file is damaged, or of another model.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            names, rows, found = content["names"], content["embeddings"], str(content["model_id"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{path} cannot be read as a names file: {error}. Write it again with ezsd export."
        ) from None
    if found != model_id:
        raise ArtifactError(
            f"{path} has the text embeddings of another model. Write it from the model of the ONNX file, with: "
            f"ezsd export MODEL {shell_quoted(path)}"
        )
    return dict(zip(names.tolist(), rows, strict=True))
