"""Progress without a terminal, as a library, and with several processes."""

from __future__ import annotations

import pytest

from ezsd.utils import progress
from ezsd.utils.log import quiet, show_log


@pytest.mark.usefixtures("shown_log")
def test_without_a_terminal_plain_lines_show_count_rate_and_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    with progress.track(10, "adapt", start=4) as advance:
        advance(2, "loss [1.5]")
    captured = capsys.readouterr()
    assert captured.out == ""
    first = captured.err.splitlines()[0]
    assert first.startswith("adapt: 6/10, ") and "/s" in first and "left" in first and first.endswith("loss [1.5]")


@pytest.mark.usefixtures("shown_log")
def test_short_stage_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.track(3, "adapt") as advance:
        for _ in range(3):
            advance(1, "")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "3/3" in lines[0]


@pytest.mark.usefixtures("shown_log")
def test_a_stage_without_steps_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.track(0, "recall"):
        pass
    assert capsys.readouterr().err == ""


def test_library_use_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.track(3, "adapt") as advance:
        advance(3, "")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("shown_log")
def test_only_the_first_process_shows_progress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    show_log()
    with progress.track(3, "adapt") as advance:
        advance(3, "")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("shown_log")
def test_quiet_context_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet(), progress.track(3, "adapt") as advance:
        advance(3, "")
    assert capsys.readouterr().err == ""
