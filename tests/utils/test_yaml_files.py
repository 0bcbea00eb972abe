"""YAML of other people cannot fill the memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ezsd.data.formats.recognize import open_dataset
from ezsd.errors import DataError, RecipeError
from ezsd.inference.vocabulary import parse_vocabulary
from ezsd.recipe import load_recipe
from ezsd.utils.yaml_files import load_yaml

_LISTS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
_MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 30))
_BOMBS = {
    "repeat too many": f"{_LISTS}names: *a29\ntrain: images\n",
    "repeat too many ": f"{_MERGED}names: *a29\ntrain: images\n",
    "contains itself": "names: &a [cat, *a]\ntrain: images\n",
    "nested too deeply": f"names: {'[' * 5000}{']' * 5000}\ntrain: images\n",
}


def _vocabulary(path: Path) -> object:
    return parse_vocabulary(path, ())


@pytest.mark.parametrize("expected", _BOMBS)
def test_bombs_are_refused_as_recipe_data_set_and_vocabulary(tmp_path: Path, expected: str) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(_BOMBS[expected])
    readers: list[tuple[Callable[[Path], object], type[Exception]]] = [
        (load_recipe, RecipeError), (open_dataset, DataError), (_vocabulary, RecipeError)
    ]  # fmt: skip
    for read, kind in readers:
        with pytest.raises(kind, match=expected.strip()) as raised:
            read(path)
        assert len(str(raised.value)) < 500 and str(path) in str(raised.value)


def test_a_bomb_in_a_set_option_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("seed: 1\n")
    with pytest.raises(RecipeError, match="contains itself"):
        load_recipe(path, ["split=&a [*a]"])


def test_usual_aliases_and_long_lists_are_read() -> None:
    assert load_yaml("a: &a [1, 2]\nb: *a\nc: {<<: &m {x: 1}, y: *a}\nd: *m") == {
        "a": [1, 2], "b": [1, 2], "c": {"x": 1, "y": [1, 2]}, "d": {"x": 1},
    }  # fmt: skip
    assert load_yaml("") is None
    assert len(load_yaml("[" + "x, " * 20_000 + "]")) == 20_000
    with pytest.raises(yaml.YAMLError):
        load_yaml("a: [")
