"""What the user sees while a stage works: one bar on a terminal, a plain line every 30 seconds elsewhere.

Every stage tells here how far it is, so here it can also be timed (:func:`stopwatch`).
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ezsd.utils.format import clock

_LINE_SECONDS = 30.0


class _Rate(ProgressColumn):
    """Steps a second since the bar began."""

    def render(self, task: Task) -> Text:
        return Text(_rate(task.completed - task.fields["start_at"], task.elapsed or 0.0))


def _first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"  # as torchrun and accelerate launch set it


class _TimeIsUp(Exception):
    """Ends the work under a stopwatch."""


@dataclass
class _Stopwatch:
    title: str
    limit: float
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def started(self, title: str) -> Callable[[int, str], None]:
        began = last = time.monotonic()

        def advance(n: int, text: str = "") -> None:
            nonlocal last
            now = time.monotonic()
            self.seconds[title].append(now - last)
            last = now
            if title == self.title and now - began >= self.limit:
                raise _TimeIsUp

        return advance


_watch: ContextVar[_Stopwatch | None] = ContextVar("watch", default=None)


@contextmanager
def stopwatch(title: str, limit: float) -> Iterator[Mapping[str, list[float]]]:
    """Time the steps of a stage instead of showing them, and end it early.

    Args:
        title: of the :func:`track` that is ended.
        limit: seconds; at the first ``advance`` after these the work is left, and what follows the ``with`` goes on.

    Yields:
        Seconds between the calls of ``advance``, the first one from the beginning of :func:`track`, by title; filled
        while the work runs.
    """
    watch = _Stopwatch(title, limit)
    token = _watch.set(watch)
    try:
        yield watch.seconds
    except _TimeIsUp:
        pass
    finally:
        _watch.reset(token)


def say(text: str) -> None:
    """Print one line for the user on stderr; under several processes, only the first one prints."""
    if _first_process() and _watch.get() is None:
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(text)


@contextmanager
def track(total: int, title: str, start: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Show how far a stage is, its rate and the time left, on stderr.

    Args:
        total: steps of the whole stage.
        title: what is being done.
        start: steps that were done before (a resumed run); they do not count in the rate.

    Yields:
        ``advance(n, text)``: n more steps are done; ``text`` says how it goes ("loss 1.2").
    """
    if (watch := _watch.get()) is not None:
        yield watch.started(title)
        return
    if not _first_process():
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
    """Under several processes all but the first say nothing."""


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
        left = "" if not fresh else f", {clock(elapsed / fresh * max(self.total - self.done, 0))} left"
        note = f", {self.note}" if self.note else ""
        self.console.print(f"{self.title}: {self.done}/{self.total}, {_rate(fresh, elapsed)}{left}{note}")


def _rate(steps: float, seconds: float) -> str:
    rate = steps / seconds if seconds > 0 else 0.0
    return f"{rate:.1f}/s" if rate >= 1 or rate == 0 else f"{1 / rate:.1f} s each"
