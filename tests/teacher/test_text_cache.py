"""Tests of the cache of text embeddings on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ezsd.teacher import text_cache


def test_the_oldest_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path))
    monkeypatch.setattr(text_cache, "_FILES", 2)
    for age, key in enumerate(("c", "b", "a")):
        text_cache.cached(key, lambda: torch.zeros(1, 2))
        os.utime(tmp_path / "text" / f"{key}.safetensors", (age, age))
        if key == "b":
            assert {path.stem for path in (tmp_path / "text").iterdir()} == {"b", "c"}
    assert {path.stem for path in (tmp_path / "text").iterdir()} == {"a", "b"}
