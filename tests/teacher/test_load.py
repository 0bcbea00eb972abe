"""load_teacher with a custom teacher, and the cache of text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from ezsd.errors import RecipeError
from ezsd.teacher import load_teacher, text_embeddings


class OwnTeacher:
    """Records the texts it embeds."""

    name = "own"
    embedding_dim = 8
    input_size = 16
    logit_scale = 1.0
    weights_digest = "own weights"
    fingerprint = "first"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode_names(self, texts: Sequence[str]) -> Tensor:
        self.asked += texts
        seeds = [torch.Generator().manual_seed(sum(text.encode())) for text in texts]
        return F.normalize(torch.stack([torch.randn(8, generator=seed) for seed in seeds]), dim=-1)

    def encode_crops(self, crops: Tensor) -> Tensor:
        return F.normalize(crops.flatten(1)[:, :8], dim=-1)

    def dense_embeddings(self, image: Tensor, boxes: Tensor, sides: Sequence[int]) -> Tensor:
        return F.normalize(torch.ones(len(boxes), 8), dim=-1)

    def norm_parameters(self, towers: Sequence[str] = ("image", "text")) -> dict[str, nn.Parameter]:
        return {}

    def to(self, device: str) -> Self:
        return self


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_custom_teacher_is_loaded_by_module_and_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_teachers.py").write_text("from test_load import OwnTeacher as make\nunfinished = object\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert load_teacher("my_teachers:make").name == "own"
    with pytest.raises(RecipeError, match="lacks methods"):
        load_teacher("my_teachers:unfinished")
    with pytest.raises(RecipeError, match="cannot be imported"):
        load_teacher("my_teachers:missing")
    with pytest.raises(RecipeError, match="cannot be imported"):
        load_teacher("no_such_module:make")


@pytest.mark.parametrize("spec", ["clip", "", "open_clip", "open_clip:", "offline:"])
def test_unknown_teachers_raise_with_the_valid_specs(spec: str) -> None:
    with pytest.raises(RecipeError, match="Expected offline, pocket, open_clip:ARCH/PRETRAINED"):
        load_teacher(spec)


def test_text_embeddings_are_computed_once() -> None:
    teacher = OwnTeacher()
    first = text_embeddings(teacher, ["cat", "dog"], "a {name}")
    assert teacher.asked == ["a cat", "a dog"]
    assert torch.equal(text_embeddings(teacher, ["cat", "dog"], "a {name}"), first)
    assert len(teacher.asked) == 2


def test_text_embeddings_depend_on_teacher_prompt_and_order() -> None:
    teacher = OwnTeacher()
    first = text_embeddings(teacher, ["cat", "dog"], "a {name}")
    assert torch.equal(text_embeddings(teacher, ["dog", "cat"], "a {name}"), first.flip(0))
    text_embeddings(teacher, ["cat", "dog"], "one {name}")
    teacher.fingerprint = "adapted"
    text_embeddings(teacher, ["cat", "dog"], "a {name}")
    assert len(teacher.asked) == 8


def test_damaged_or_unwritable_cache_gives_the_same_embeddings(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = OwnTeacher()
    first = text_embeddings(teacher, ["cat"], "{name}")
    for path in cache.rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    assert torch.equal(text_embeddings(teacher, ["cat"], "{name}"), first)
    (cache / "file").write_text("not a folder")
    monkeypatch.setenv("EZSD_CACHE", str(cache / "file"))
    assert torch.equal(text_embeddings(teacher, ["cat"], "{name}"), first)


def test_other_braces_in_a_prompt_are_kept() -> None:
    teacher = OwnTeacher()
    text_embeddings(teacher, ["cat"], "a {name} of {0}")
    assert teacher.asked == ["a cat of {0}"]
