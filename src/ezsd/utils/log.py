"""Logging: silent as a library, plain lines on the command line, a file in the run folder.

Each module logs to the logger of its name. Nothing is shown unless :func:`show_log` is called or the user configures
logging.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

_LOGGER = logging.getLogger("ezsd")
_FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class ConsoleHandler(logging.Handler):
    """Prints messages to stderr; warnings and errors are prefixed with their level."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.capitalize()}: "
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        console.print(f"{prefix}{record.getMessage()}")


class _LogFile(logging.FileHandler):
    """The log of a run folder. A full disk is reported where results are written, not by the log."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class _RootHandler(logging.Handler):
    """Passes records to the handlers of the root logger, like propagation."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record."""
        root = logging.getLogger()
        if root.handlers:
            root.handle(record)


def show_log(level: int = logging.INFO) -> None:
    """Show log records, Python warnings and progress on stderr; with several processes, only in the first one.

    Args:
        level: Minimum level of shown records; progress is shown for INFO and lower.
    """
    hide_log()
    handler = ConsoleHandler(level if is_first_process() else logging.ERROR)
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(min(level, logging.INFO))
    _LOGGER.propagate = False
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", "OpenCV .* is not installed")  # supervision does not need it here
    captured = logging.getLogger("py.warnings")
    captured.handlers, captured.propagate = [handler], False


def hide_log() -> None:
    """Undo :func:`show_log`."""
    for handler in _console_handlers():
        _LOGGER.removeHandler(handler)
    _LOGGER.setLevel(logging.NOTSET)
    _LOGGER.propagate = True
    logging.captureWarnings(False)
    captured = logging.getLogger("py.warnings")
    captured.handlers, captured.propagate = [], True


def shows_progress() -> bool:
    """Return whether progress is shown, which requires :func:`show_log` with level INFO or lower."""
    return any(handler.level <= logging.INFO for handler in _console_handlers())


def is_first_process() -> bool:
    """Return whether this is the first process (rank 0 of torchrun or accelerate launch)."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def quiet() -> Iterator[None]:
    """Hide progress and records below WARNING within the context."""
    levels = [(handler, handler.level) for handler in _console_handlers()]
    for handler, level in levels:
        handler.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        for handler, level in levels:
            handler.setLevel(level)


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append records of level INFO and higher to ``path`` within the context; the console output does not change."""
    level, propagate = _LOGGER.level, _LOGGER.propagate
    added: list[logging.Handler] = [_LogFile(path, encoding="utf-8", delay=True)]
    added[0].setFormatter(logging.Formatter(_FILE_FORMAT))
    if propagate:
        added.append(_RootHandler(_LOGGER.getEffectiveLevel()))
    for handler in added:
        _LOGGER.addHandler(handler)
    _LOGGER.propagate = False
    _LOGGER.setLevel(min(_LOGGER.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        for handler in added:
            _LOGGER.removeHandler(handler)
            handler.close()
        _LOGGER.propagate = propagate
        _LOGGER.setLevel(level)


@contextmanager
def collected_warnings(title: str) -> Iterator[None]:
    """Collect the warnings within the context and show each one once at the end.

    Args:
        title: Title of the list, for example "Warnings of stage train".
    """
    messages: Counter[str] = Counter()

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno == logging.WARNING:
            messages[record.getMessage().strip()] += 1
        return record.levelno != logging.WARNING

    handlers = _console_handlers()
    for handler in handlers:
        handler.addFilter(keep)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep)
        if messages:
            lines = [text if count == 1 else f"{text} ({count} times)" for text, count in messages.items()]
            for handler in handlers:
                if handler.level <= logging.WARNING:
                    record = _LOGGER.makeRecord(
                        _LOGGER.name, logging.INFO, "", 0, "\n  ".join([f"{title}:", *lines]), (), None
                    )
                    handler.emit(record)


def _console_handlers() -> list[ConsoleHandler]:
    return [handler for handler in _LOGGER.handlers if isinstance(handler, ConsoleHandler)]
