"""Tests of the benchmark of errors: it reads a run folder, prints what AP50 is lost to, and writes it as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import errors
from finished_run import make_finished_run
from tiny import SPLIT, TinyCoco


def test_errors_are_printed_and_written_for_base_novel_and_every_name(
    tmp_path: Path,
    tiny_coco: Callable[..., TinyCoco],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_finished_run(tmp_path / "run", tiny_coco(tmp_path / "data"))
    monkeypatch.setattr(sys, "argv", ["errors.py", str(folder), "--threshold", "0.5"])
    monkeypatch.setenv("COLUMNS", "120")
    errors.main()
    lines = [line.replace("│", "|").split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    rows = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}
    assert rows["nothing"] == ["100.0", "0.0", "0.0", "0.0"]  # base, novel, and each novel name
    assert rows["missed"][0] == "100.0 (+0.0)"
    assert rows["all"][:2] == ["100.0 (+0.0)", "100.0 (+100.0)"]
    assert (rows["precision"][:2], rows["recall"][:2]) == (["1.000", "0.000"], ["1.000", "0.000"])
    assert rows["errors of background"][1] == "1"
    written = json.loads((folder / "evaluate" / "errors.json").read_text())
    assert written["threshold"] == 0.5
    assert set(written["ap50"]["as_is"]) == {"base", "novel", *SPLIT.names}
    assert written["at_threshold"]["circle"]["missed"] == 0
    assert written["at_threshold"]["novel"]["errors"]["background"] == 1  # with the threshold 0.1 there would be 2
