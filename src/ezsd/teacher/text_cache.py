"""Text embeddings of a vocabulary, cached on disk between runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ezsd.errors import ArtifactError
from ezsd.teacher.base import Teacher
from ezsd.utils.files import cache_folder, digest, read_tensors, write_tensors

_FILES = 1000  # vocabularies in the cache


@torch.no_grad()
def text_embeddings(teacher: Teacher, names: Sequence[str], prompt: str) -> Tensor:
    """Embed names with the teacher's text tower, or load the embeddings from the cache.

    Args:
        teacher: The teacher. Its fingerprint is part of the cache key, so an adapted teacher has separate entries.
        names: Category names.
        prompt: Text with ``{name}``.

    Returns:
        ``[C, D]``, unit length, float32, on the CPU.
    """
    texts = [prompt.replace("{name}", name) for name in names]
    return cached(digest(teacher.fingerprint, *texts), lambda: teacher.encode_names(texts).float().cpu())


def cached(key: str, make: Callable[[], Tensor]) -> Tensor:
    """Return the cached tensor of ``key``; if it is missing, compute it with ``make`` and cache it."""
    path = cache_folder() / "text" / f"{key}.safetensors"
    try:
        return read_tensors(path)[0]["embeddings"]
    except (ArtifactError, KeyError):
        pass  # missing or damaged: computed below
    embeddings = make()
    with suppress(ArtifactError):  # without a writable cache, the embeddings are computed each time
        write_tensors(path, {"embeddings": embeddings})
        _keep_newest(path.parent)
    return embeddings


def _keep_newest(folder: Path) -> None:
    """Remove old files: a service is asked for any number of vocabularies."""
    with suppress(OSError):  # another process may remove them, too
        for path in sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)[:-_FILES]:
            path.unlink()
