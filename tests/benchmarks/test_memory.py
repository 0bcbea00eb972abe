"""The benchmark of memory runs both stages on its images, and draws their curves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import memory


@pytest.mark.slow
def test_both_stages_are_sampled_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["memory.py", str(tmp_path), "--images", "100", "--json", str(file)])
    memory.main()
    rows = json.loads(file.read_text())
    assert [row["stage"] for row in rows] == ["propose"] * 10 + ["train"] * 10
    assert all(row["MB"] > 100 for row in rows)
    assert (tmp_path / "memory.svg").read_text().count("<polyline") == 2


def test_rows_are_tenths_with_the_most_until_then() -> None:
    rows = memory.rows("train", [(float(second), 100.0 - second) for second in range(20)])
    assert [row["seconds"] for row in rows] == [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0, 19.0]
    assert rows[-1]["MB"] == 81.0 and rows[-1]["most until then, MB"] == 100.0
