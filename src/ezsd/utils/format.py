"""Numbers, durations and byte sizes for people."""

from __future__ import annotations

NOT_MEASURED = "not measured"
_GAP = "\N{NO-BREAK SPACE}"  # between a number and its unit


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


def size(count: float) -> str:
    """A number of bytes: 0.3 MB, 85 MB, 2.1 GB."""
    for limit, unit, divisor in ((1e9, "MB", 1e6), (1e12, "GB", 1e9)):
        if count < limit:
            value = count / divisor
            return f"{value:.0f} {unit}" if value >= 10 or not count else f"{value:.1f} {unit}"
    return f"{count / 1e12:.1f} TB"


def rough_duration(seconds: float) -> str:
    """A time in two digits or so: 40 s, 12 min, 3.5 h, 4 days."""
    for limit, unit, divisor in ((90, "s", 1), (90 * 60, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            value = seconds / divisor
            return f"{value:.0f} {unit}" if value >= 10 or unit == "s" else f"{value:.1f} {unit}"
    return f"{seconds / 86400:.1f} days"


def clock(seconds: float) -> str:
    """Format seconds as ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
