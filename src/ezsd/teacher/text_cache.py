"""Text embeddings of a vocabulary, kept on disk between runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ezsd.errors import ArtifactError
from ezsd.teacher.base import Teacher
from ezsd.utils.files import digest, read_tensors, write_tensors


def cache_folder() -> Path:
    """``$EZSD_CACHE``, or ``~/.cache/ezsd``."""
    return Path(os.environ.get("EZSD_CACHE") or Path.home() / ".cache" / "ezsd")


@torch.no_grad()
def text_embeddings(teacher: Teacher, names: Sequence[str], prompt: str) -> Tensor:
    """Embed names with the teacher's text tower; asked again, they come from the disk.

    Args:
        teacher: its fingerprint is part of the key, so an adapted teacher has entries of its own.
        names: category names.
        prompt: text with ``{name}`` in it.

    Returns:
        ``[C, D]`` unit length, float32, on the CPU.
    """
    texts = [prompt.replace("{name}", name) for name in names]
    return cached(digest(teacher.fingerprint, *texts), lambda: teacher.encode_names(texts).float().cpu())


def cached(key: str, make: Callable[[], Tensor]) -> Tensor:
    """What ``make`` returns, from the disk when it was made before under the same ``key``."""
    path = cache_folder() / "text" / f"{key}.safetensors"
    try:
        return read_tensors(path)[0]["embeddings"]
    except (ArtifactError, KeyError):
        pass  # not there yet, or damaged: made again below
    embeddings = make()
    with suppress(ArtifactError):  # a cache that cannot be written only costs time
        write_tensors(path, {"embeddings": embeddings})
    return embeddings
