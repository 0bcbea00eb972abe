"""Render self-contained HTML pages: styles and images are embedded, and nothing is loaded."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ezsd.utils.format import byte_size, counted, duration, number


def render(template: str, **values: Any) -> str:
    """Render a template of ``ezsd/report/templates``. Values are HTML-escaped.

    Args:
        template: The file name of the template.
        values: The variables of the template.

    Returns:
        The HTML of the page.
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
    environment.filters |= {"counted": counted, "number": number, "duration": duration, "byte_size": byte_size}
    return environment
