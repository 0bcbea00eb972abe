"""Files in another encoding than UTF-8 are refused with the line, what is before it, and the likely cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ezsd.data.formats.coco_json import read_annotations, read_json_file
from ezsd.data.formats.recognize import open_dataset
from ezsd.data.formats.text_files import text_of
from ezsd.errors import DataError

_READERS: dict[str, Callable[[Path], Any]] = {
    "text": text_of, "JSON": read_json_file, "COCO": read_annotations, "YAML": lambda path: open_dataset(path.parent),
}  # fmt: skip


@pytest.mark.parametrize("reader", _READERS)
@pytest.mark.parametrize("encoding, name", [("gbk", "汽车"), ("shift_jis", "自動車"), ("latin-1", "vélo")])
def test_another_encoding_is_refused_with_the_line_and_the_cause(
    tmp_path: Path, reader: str, encoding: str, name: str
) -> None:
    path = tmp_path / "data.yaml"
    path.write_bytes(f'train: images\nnames: ["{name}"]\n'.encode(encoding))
    with pytest.raises(DataError) as raised:
        _READERS[reader](path)
    message = str(raised.value)
    assert str(path) in message and "line 2 is not UTF-8 after" in message and "names: [" in message
    assert "another encoding, such as GBK, Shift-JIS or Latin-1" in message and "iconv -f GBK -t UTF-8" in message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_is_read_with_its_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("汽车\nvélo".encode(encoding))
    assert text_of(tmp_path / "a.txt") == "汽车\nvélo"
