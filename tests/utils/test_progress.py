from __future__ import annotations

from types import SimpleNamespace

import pytest

from ezsd.utils import progress


def test_where_there_is_no_terminal_plain_lines_tell_count_rate_and_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    with progress.track(10, "adapt", start=4) as advance:
        advance(2, "loss [1.5]")
    captured = capsys.readouterr()
    assert captured.out == ""
    first = captured.err.splitlines()[0]
    assert first.startswith("adapt: 6/10, ") and "/s" in first and "left" in first and first.endswith("loss [1.5]")


def test_a_quick_stage_says_one_line_only(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.track(3, "adapt") as advance:
        for _ in range(3):
            advance(1, "")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "3/3" in lines[0]


def test_only_the_first_of_several_processes_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    progress.say("twice?")
    with progress.track(3, "adapt") as advance:
        advance(3, "")
    assert capsys.readouterr().err == ""


def test_what_is_said_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say("photos/[bold]/a.jpg is broken")
    assert capsys.readouterr().err == "photos/[bold]/a.jpg is broken\n"


def test_work_under_a_stopwatch_is_silent_timed_and_ended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 9.0, 10.0, 11.0, 12.0, 14.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    reached: list[str] = []
    with progress.stopwatch("train", limit=2.5) as seconds:
        progress.say("train: 5 steps")
        with progress.track(1, "load") as advance:
            advance(1, "")  # another title's time does not count
        reached.append("train")
        with progress.track(5, "train") as advance:
            for _ in range(5):
                advance(1, "")
        reached.append("past the end")
    assert seconds == {"load": [9.0], "train": [1.0, 1.0, 2.0]}
    assert reached == ["train"]
    monkeypatch.undo()
    progress.say("told again")
    assert capsys.readouterr().err == "told again\n"


def test_faults_under_a_stopwatch_are_faults() -> None:
    with pytest.raises(ValueError, match="broken"), progress.stopwatch("train", limit=0.0):
        raise ValueError("broken")
