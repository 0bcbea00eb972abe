"""Parsing piece by piece gives what json.loads gives, wherever the pieces end, or refuses the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ezsd.data.formats import json_stream
from ezsd.data.formats.coco_json import read_annotations
from ezsd.data.formats.json_stream import Irregular, parse_object
from ezsd.errors import DataError

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
_ANY_FOLDER = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # fmt: skip


def _parsed(path: Path, data: bytes, piece: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(json_stream, "_PIECE", piece)
    path.write_bytes(data)
    return parse_object(path, lambda entry: entry)


@given(st.dictionaries(st.text(max_size=4), _VALUES, max_size=5), st.integers(1, 40), st.booleans(), st.booleans())
@_ANY_FOLDER
def test_an_object_is_what_json_loads_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any], piece: int, spaces: bool, mark: bool
) -> None:
    data = json.dumps(content, ensure_ascii=False, indent=1 if spaces else None).encode("utf-8", "surrogatepass")
    assert _parsed(tmp_path / "a.json", b"\xef\xbb\xbf" * mark + data, piece, monkeypatch) == content


@given(st.dictionaries(st.text(max_size=4), _VALUES, min_size=1, max_size=3), st.integers(1, 40), st.data())
@_ANY_FOLDER
def test_what_json_loads_refuses_is_irregular(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any], piece: int, data: st.DataObject
) -> None:
    text = json.dumps(content)
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + data.draw(st.sampled_from(["", ",", "]", "}", '"', "x", "[", "\0"])) + text[place + 1 :]
    try:
        expected = json.loads(changed)
    except ValueError:
        with pytest.raises(Irregular):
            _parsed(tmp_path / "a.json", changed.encode(), piece, monkeypatch)
    else:
        if isinstance(expected, dict):
            assert _parsed(tmp_path / "a.json", changed.encode(), piece, monkeypatch) == expected


@pytest.mark.parametrize("data", [b"", b"[]", b"12", b'{"a": 1} {}', b'{"a": "\xff"}', '{"a": 1}'.encode("utf-16")])
def test_what_is_not_one_object_in_utf_8_is_irregular(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    with pytest.raises(Irregular):
        _parsed(tmp_path / "a.json", data, 3, monkeypatch)


def test_annotations_that_are_cut_by_the_end_of_a_piece_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = [{"id": number, "image_id": 7, "category_id": 1, "bbox": [number, 2, 3, 4]} for number in range(30)]
    content = {"images": [{"id": 7, "file_name": "a"}], "annotations": nested, "categories": [{"id": 1, "name": "b"}]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    for piece in (1, 30, 64, 500):
        monkeypatch.setattr(json_stream, "_PIECE", piece)
        path.touch()
        found = read_annotations(path)
        assert found.ids == list(range(30)) and found.boxes.tolist() == [[number, 2, 3, 4] for number in range(30)]
        assert found.images == content["images"] and found.image_keys == [7] * 30


def test_the_error_of_a_damaged_file_says_where(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": [],\n "annotations": [{"id": 1,}]}')
    with pytest.raises(DataError, match=r"a\.json cannot be read: .*line 2 column"):
        read_annotations(tmp_path / "a.json")
