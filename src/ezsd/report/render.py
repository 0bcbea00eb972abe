"""HTML pages that are one file: their style is in them, nothing is loaded from anywhere."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ezsd.utils.format import byte_size, duration, number


def render(template: str, **values: Any) -> str:
    """Fill a template of ``ezsd/report/templates``; texts are escaped, so names like ``<b>`` stay names.

    Args:
        template: its file name.
        values: what it shows.

    Returns:
        the whole page.
    """
    return _environment().get_template(template).render(**values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ezsd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration, "byte_size": byte_size}
    return environment
