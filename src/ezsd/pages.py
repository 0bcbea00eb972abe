"""HTML pages that are one file: their style is in them, nothing is loaded from anywhere."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

NOT_MEASURED = "not measured"
_GAP = "\N{NO-BREAK SPACE}"  # between a number and its unit


def render(template: str, **values: Any) -> str:
    """Fill a template of ``ezsd/templates``; texts are escaped, so names like ``<b>`` stay names.

    Args:
        template: its file name.
        values: what it shows.

    Returns:
        the whole page.
    """
    return _environment().get_template(template).render(**values)


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    """Write a figure for people: thousands apart, ``not measured`` for None."""
    return NOT_MEASURED if value is None else f"{value:,.{digits}f}{unit}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float | None) -> str:
    """Write seconds as ``8 s``, ``7 min 47 s`` or ``1 h 02 min``."""
    if seconds is None:
        return NOT_MEASURED
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,}{_GAP}h {minutes:02d}{_GAP}min"
    if minutes:
        return f"{minutes}{_GAP}min {rest:02d}{_GAP}s"
    return f"{seconds:.1f}{_GAP}s" if seconds < 9.95 else f"{rest}{_GAP}s"


def megabytes(size: float | None) -> str:
    """Write bytes as megabytes."""
    return number(None if size is None else size / 1e6, 1, f"{_GAP}MB")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ezsd"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "duration": duration, "megabytes": megabytes}
    return environment
