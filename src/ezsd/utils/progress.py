"""Show the progress of a stage: a bar on a terminal, otherwise a plain line every 30 seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ezsd.utils.format import duration
from ezsd.utils.log import shows_progress

Advance = Callable[[int, str], None]

_LINE_SECONDS = 30.0


class _Rate(ProgressColumn):
    """Steps per second since the start of the bar."""

    def render(self, task: Task) -> Text:
        return Text(_rate(task.completed - task.fields["start_at"], task.elapsed or 0.0))


@contextmanager
def track(total: int | None, title: str, start: int = 0) -> Iterator[Advance]:
    """Show the progress, rate and remaining time of a stage on stderr, if :func:`ezsd.utils.log.show_log` was called.

    Args:
        total: Total number of steps; None if it is not known.
        title: Title of the progress display.
        start: Steps completed by an earlier, interrupted run; they do not count in the rate.

    Yields:
        ``advance(n, text)``, which adds n completed steps and shows ``text`` (for example "loss 1.2").
    """
    if total == 0 or not shows_progress():
        yield silent
        return
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if console.is_terminal:
        with _bar(console) as progress:
            task = progress.add_task(title, total=total, completed=start, start_at=start, note="")

            def advance(n: int, text: str = "") -> None:
                progress.update(task, advance=n, note=text)

            yield advance
        return
    lines = _Lines(console, total, title, start)
    yield lines.advance
    lines.show()


def silent(n: int, text: str = "") -> None:
    """Show nothing."""


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    return Progress(*columns, console=console)


class _Lines:
    def __init__(self, console: Console, total: int | None, title: str, start: int) -> None:
        self.console, self.total, self.title = console, total, title
        self.start = self.done = start
        self.note = ""
        self.began = self.shown = time.monotonic()

    def advance(self, n: int, text: str = "") -> None:
        self.done += n
        self.note = text
        if time.monotonic() - self.shown >= _LINE_SECONDS:
            self.show()

    def show(self) -> None:
        self.shown = time.monotonic()
        elapsed = self.shown - self.began
        new = self.done - self.start
        left = ""
        if new and self.total is not None:
            left = f", {duration(elapsed / new * max(self.total - self.done, 0), rough=True)} left"
        note = f", {self.note}" if self.note else ""
        total = "" if self.total is None else f"/{self.total}"
        self.console.print(f"{self.title}: {self.done}{total}, {_rate(new, elapsed)}{left}{note}")


def _rate(steps: float, seconds: float) -> str:
    rate = steps / seconds if seconds > 0 else 0.0
    return f"{rate:.1f}/s" if rate >= 1 or rate == 0 else f"{1 / rate:.1f} s each"
