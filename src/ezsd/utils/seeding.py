"""Random numbers that depend only on a seed and keys."""

from __future__ import annotations

import hashlib

import torch


def seeded(seed: int, *keys: int) -> torch.Generator:
    """Return a CPU generator that depends only on ``seed`` and ``keys`` (epoch, step, image id ...)."""
    text = ",".join(str(key) for key in (seed, *keys))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return torch.Generator().manual_seed(number)
