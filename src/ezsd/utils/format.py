"""Format numbers, durations and byte sizes for display, with a non-breaking space before units."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

NOT_MEASURED = "not measured"
_SPACE = "\N{NO-BREAK SPACE}"


def shell_quoted(argument: Path | str) -> str:
    """Return an argument, such as a path, for a command that is copied to a shell."""
    return subprocess.list2cmdline([str(argument)]) if sys.platform == "win32" else shlex.quote(str(argument))


def number(value: float | None, digits: int = 0) -> str:
    """Format a number with thousands separators; None is "not measured"."""
    return NOT_MEASURED if value is None else f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def plural(count: float, one: str, more: str) -> str:
    """Return the words for a count: ``plural(1, "is", "are")`` is "is"."""
    return one if count == 1 else more


def counted(count: int | None, one: str, more: str = "") -> str:
    """Return a count with its words: "1 image", "1,200 images".

    Args:
        count: The count; None is "not measured".
        one: The words for one.
        more: The words for several; by default with an "s" at the end.
    """
    return f"{number(count)} {one if count == 1 else more or f'{one}s'}"


def duration(seconds: float | None, rough: bool = False) -> str:
    """Format seconds as ``8 s``, ``7 min 47 s`` or ``1 h 02 min``; None is "not measured".

    Args:
        seconds: The duration.
        rough: Whether to use two digits and one unit (``40 s``, ``3.5 h``, ``4.0 days``), for estimates.
    """
    if seconds is None:
        return NOT_MEASURED
    if rough:
        return _rough(seconds)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,}{_SPACE}h {minutes:02d}{_SPACE}min"
    if minutes:
        return f"{minutes}{_SPACE}min {rest:02d}{_SPACE}s"
    return f"{seconds:.1f}{_SPACE}s" if seconds < 9.95 else f"{rest}{_SPACE}s"


def byte_size(count: float | None) -> str:
    """Format bytes as ``0.3 MB``, ``85 MB`` or ``2.1 GB``; None is "not measured"."""
    if count is None:
        return NOT_MEASURED
    for limit, unit, divisor in ((1e9, "MB", 1e6), (1e12, "GB", 1e9)):
        if count < limit:
            return _two_digits(count / divisor, unit)
    return _two_digits(count / 1e12, "TB")


def _rough(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f}{_SPACE}s"
    for limit, unit, divisor in ((90 * 60, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return _two_digits(seconds / divisor, unit)
    return f"{seconds / 86400:.1f}{_SPACE}days"


def _two_digits(value: float, unit: str) -> str:
    return f"{value:.0f}{_SPACE}{unit}" if value >= 9.95 or not value else f"{value:.1f}{_SPACE}{unit}"
