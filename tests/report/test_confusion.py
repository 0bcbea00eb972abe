"""The confusion of names of the teacher."""

from __future__ import annotations

import json
from pathlib import Path

from ezsd.report.confusion import read_confusion


def test_without_crops_there_is_no_confusion(tmp_path: Path) -> None:
    path = tmp_path / "confusion.json"
    assert read_confusion(path) is None
    path.write_text(json.dumps({"names": ["a", "b"], "base": 1, "before": [], "after": []}))
    assert read_confusion(path) is None
