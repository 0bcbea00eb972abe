"""Progress of a stage: a bar on a terminal, a plain line every 30 seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ezsd.utils.format import duration
from ezsd.utils.log import shows_progress

_LINE_SECONDS = 30.0


class _Rate(ProgressColumn):
    """Steps a second since the bar began."""

    def render(self, task: Task) -> Text:
        return Text(_rate(task.completed - task.fields["start_at"], task.elapsed or 0.0))


@contextmanager
def track(total: int, title: str, start: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Show how far a stage is, its rate and the time left, on stderr, if :func:`ezsd.utils.log.show_log` was called.

    Args:
        total: steps of the whole stage.
        title: what is being done.
        start: steps that were done before (a resumed run); they do not count in the rate.

    Yields:
        ``advance(n, text)``: n more steps are done; ``text`` says how it goes ("loss 1.2").
    """
    if not shows_progress():
        yield _silent
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


def _silent(n: int, text: str = "") -> None:
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
    def __init__(self, console: Console, total: int, title: str, start: int) -> None:
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
        fresh = self.done - self.start
        left = "" if not fresh else f", {duration(elapsed / fresh * max(self.total - self.done, 0), rough=True)} left"
        note = f", {self.note}" if self.note else ""
        self.console.print(f"{self.title}: {self.done}/{self.total}, {_rate(fresh, elapsed)}{left}{note}")


def _rate(steps: float, seconds: float) -> str:
    rate = steps / seconds if seconds > 0 else 0.0
    return f"{rate:.1f}/s" if rate >= 1 or rate == 0 else f"{1 / rate:.1f} s each"
