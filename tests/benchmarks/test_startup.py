"""The benchmark of the start: it runs the command line in new processes, and reads embeddings from the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

import startup
from tiny_run import DETECTOR
from tiny_teacher import ColourTeacher
from untrained_model import write_untrained_model


def test_every_command_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    model = write_untrained_model(tmp_path / "model", DETECTOR, 3, 16)
    rows = startup.benchmark(model, tmp_path, ColourTeacher(), rounds=1)
    assert [row["what"] for row in rows][2:] == [
        "`ezsd --help`", "`ezsd detect` of one image", "the same in a running process",
        "cached embeddings of 1,203 names",
    ]  # fmt: skip
    assert all(row["ms"] > 0 for row in rows)
    assert (tmp_path / "out" / "detections.json").is_file() and list((tmp_path / "cache" / "text").iterdir())


def test_a_command_that_fails_is_not_measured() -> None:
    with pytest.raises(RuntimeError, match="no_such_name"):
        startup.process("-c", "no_such_name")()
