"""Names files: text embeddings of names beside an ONNX model, so that no teacher is needed; without torch."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ezsd.errors import ArtifactError
from ezsd.utils.files import written_whole
from ezsd.utils.format import shell_quoted

_MOST_EXPANDED = 50  # bytes of the content for each byte of the file
Embeddings = Mapping[str, "np.ndarray[Any, Any]"]  # [K, D] of each name: its phrases, mostly one


class TextInput(NamedTuple):
    """The names of a call, as inputs of an exported graph.

    Attributes:
        text_embeddings: [P, D] float32, the phrases of all names.
        phrases: [C, K] int64, the rows of ``text_embeddings`` that belong to each name; if a name has fewer phrases
            than others, its first is repeated.
    """

    text_embeddings: np.ndarray[Any, Any]
    phrases: np.ndarray[Any, Any]


def text_input(names: Sequence[np.ndarray[Any, Any]]) -> TextInput:
    """Return the inputs for names with the embeddings [K, D] of their phrases."""
    ends = np.cumsum([len(rows) for rows in names])
    places = np.arange(max(len(rows) for rows in names))
    phrases = [end - len(rows) + np.where(places < len(rows), places, 0) for rows, end in zip(names, ends, strict=True)]
    return TextInput(np.concatenate(names).astype(np.float32), np.array(phrases, dtype=np.int64))


def names_file_of(model: Path) -> Path:
    """Return the names file of an ONNX model: ``model.names.npz`` beside ``model.onnx``."""
    return model.with_suffix(".names.npz")


def write_names(path: Path, embeddings: Embeddings, model_id: str) -> None:
    """Write a names file.

    Args:
        path: The file (.npz).
        embeddings: The text embeddings [K, D] of each name; the file has the name once for each of them.
        model_id: Identifies the model whose embeddings these are.

    Raises:
        ArtifactError: The file cannot be written.
    """
    rows = np.concatenate(list(embeddings.values())).astype(np.float32)
    names = np.repeat(np.array(list(embeddings), dtype=str), [len(each) for each in embeddings.values()])
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, names=names, embeddings=rows, model_id=model_id)


def read_names(path: Path, model_id: str, dim: int) -> Embeddings:
    """Read a names file.

    Args:
        path: The file.
        model_id: The model that the embeddings must be of.
        dim: D, the dimension of its embeddings.

    Raises:
        ArtifactError: The file is damaged, or of another model.
    """
    try:
        _refuse_bomb(path)
        with np.load(path, allow_pickle=False) as content:
            names, rows, found = content["names"], content["embeddings"], str(content["model_id"])
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise _unreadable(path, str(error)) from None
    if found != model_id:
        raise ArtifactError(
            f"{path} has the text embeddings of another model. Write it from the model of the ONNX file, with: "
            f"ezsd export MODEL {shell_quoted(path)}"
        )
    if names.dtype.kind != "U" or rows.dtype != np.float32 or rows.shape != (*names.shape, dim):
        raise _unreadable(path, f"embeddings of shape {rows.shape} for names of shape {names.shape}")
    if not np.isfinite(rows).all():
        raise _unreadable(path, "embeddings that are not finite")
    by_name: dict[str, list[np.ndarray[Any, Any]]] = {}
    for name, row in zip(names.tolist(), rows, strict=True):
        by_name.setdefault(name, []).append(row)
    return {name: np.stack(own) for name, own in by_name.items()}


def _refuse_bomb(path: Path) -> None:
    """Raise ValueError if the content is far larger than the file; embeddings hardly get smaller when compressed."""
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > _MOST_EXPANDED * path.stat().st_size:
        raise ValueError(f"{size:,} bytes in a file of {path.stat().st_size:,} bytes")


def _unreadable(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(f"{path} cannot be read as a names file: {reason}. Write it again with ezsd export.")
