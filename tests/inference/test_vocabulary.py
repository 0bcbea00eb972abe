"""Vocabularies: lists, texts, mappings and files; problems are reported together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ezsd.data.categories import joined_names
from ezsd.errors import RecipeError
from ezsd.inference.vocabulary import parse_vocabulary

OWN = ("circle", "square")


def test_lists_texts_mappings_and_files_mean_the_same(tmp_path: Path) -> None:
    lines, listed, mapped = tmp_path / "names.txt", tmp_path / "names.yaml", tmp_path / "mapped.yml"
    lines.write_text("\ufeffcat\n\n# animals above\ntraffic cone  # orange\n", encoding="utf-8")
    listed.write_text("- cat\n- traffic cone\n")
    mapped.write_text("cat:\ntraffic cone:\n")
    for given_names in (["cat", " traffic cone "], "cat, traffic cone,", {"cat": None, "traffic cone": "traffic cone"},
                        lines, str(listed), mapped):  # fmt: skip
        names = parse_vocabulary(given_names, OWN)
        assert names.names == ("cat", "traffic cone")
        assert names.phrases == (("cat",), ("traffic cone",))
    assert parse_vocabulary(None, OWN).names == OWN


def test_a_name_with_a_comma_is_put_in_quotes() -> None:
    assert parse_vocabulary('"cone, orange", dog, 5" pipe', OWN).names == ("cone, orange", "dog", '5" pipe')
    names = ("cone, orange", "dog", '"a", b', '5" pipe')
    assert parse_vocabulary(joined_names(names), OWN).names == names


def test_a_path_is_a_file_whatever_its_name_is(tmp_path: Path) -> None:
    for name in ("names.lst", "names", "cats, dogs.txt"):
        (tmp_path / name).write_text("cat\ncone, orange  # one name\n")
        assert parse_vocabulary(tmp_path / name, OWN).names == ("cat", "cone, orange")
    with pytest.raises(RecipeError, match=r"missing\.lst cannot be read"):
        parse_vocabulary(tmp_path / "missing.lst", OWN)
    assert parse_vocabulary("names.lst", OWN).names == ("names.lst",)


def test_synonyms_and_templates_are_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "names.yaml"
    content = {"names": {"person": ["person", "pedestrian", "человек"]}, "templates": ["a photo of a {name}", "{name}"]}
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    names = parse_vocabulary(path, OWN)
    assert names.phrases == (("person", "pedestrian", "человек"),)
    assert names.templates == ("a photo of a {name}", "{name}")


@pytest.mark.parametrize(
    "vocabulary, message",
    [
        ([], "empty"),
        ("", "empty"),
        (" , ", "empty"),
        (["cat", " "], r"vocabulary\[1\]"),
        (["cat", 3], r"vocabulary\[1\] is 3"),
        (["cat", "dog", "Cat "], r'"Cat" is a duplicate of "cat"'),
        (["traffic  cone", "traffic cone"], "is a duplicate"),
        ({"person": ["person", "man"], "boy": ["man"]}, r'"man" is a duplicate of "man"'),
        ({"person": []}, "expected the phrases"),
        (["x" * 201], "201 characters"),
        ("x" * 200_000, "cannot be read: field larger"),
        ("missing.yaml", "missing.yaml cannot be read"),
    ],
)
def test_an_invalid_vocabulary_is_reported(vocabulary: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_vocabulary(vocabulary, OWN)


@pytest.mark.parametrize(
    "text", ["a: [b", "3", "names: cat", "- yes\n- cat", "names: [cat]\ntemplates: [no place]", ""]
)
def test_an_invalid_file_is_reported(text: str, tmp_path: Path) -> None:
    path = tmp_path / "names.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"names\.yaml"):
        parse_vocabulary(path, OWN)


def test_all_problems_of_a_vocabulary_are_reported_together() -> None:
    with pytest.raises(RecipeError) as error:
        parse_vocabulary(["cat", "", "cat"], OWN)
    assert len(error.value.problems) == 2


_PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
_VALUES = st.recursive(_PLAIN, lambda inner: st.lists(inner, max_size=3))


@given(st.lists(_VALUES, max_size=4) | st.dictionaries(st.text(max_size=4), _VALUES, max_size=4))
def test_any_values_give_names_or_a_message(values: Any) -> None:
    try:
        names = parse_vocabulary(values, OWN)
    except RecipeError:
        return
    assert len(names.names) == len(names.phrases) == len(values)
    assert all(phrase.strip() == phrase and phrase for phrases in names.phrases for phrase in phrases)
