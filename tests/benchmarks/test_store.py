"""The benchmark of the target store reads the same regions in all formats, and leaves no files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import store


def test_all_formats_return_the_same_regions(tmp_path: Path) -> None:
    regions = store.make_regions(3)
    ways = [store.write_store, store.write_json_text, store.write_pth]
    for number, way in enumerate(ways):
        written = way(tmp_path / str(number), 70, regions)
        found, expected = written.read(65), regions[1]
        assert torch.equal(found.boxes, expected.boxes) and torch.equal(found.labels, expected.labels)
        torch.testing.assert_close(found.embeddings.float(), expected.embeddings.float(), atol=1e-3, rtol=0)


def test_table_compares_sizes_and_the_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, file = tmp_path / "new", tmp_path / "rows.json"
    arguments = ["--images", "4", "8", "--regions", "20", "--reads", "2", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["store.py", str(folder), *arguments])
    store.main()
    rows = {row["format"]: row for row in json.loads(file.read_text())}
    assert list(rows) == ["ezsd, 4 images", "ezsd, 8 images", "JSON text", ".pth"]
    assert rows["JSON text"]["bytes a vector"] > 8 * rows["ezsd, 8 images"]["bytes a vector"]
    assert not folder.exists()


def test_an_existing_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["store.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        store.main()
    assert tmp_path.exists()
