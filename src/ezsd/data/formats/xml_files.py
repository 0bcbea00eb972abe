"""Read XML files of data sets, and the numbers in them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, parse

from ezsd.data.formats.problems import Problems

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def read_xml(path: Path, problems: Problems) -> Element | None:
    """Return the root of an XML file; None if it cannot be read, which is added to the problems."""
    try:
        return parse(path).getroot()
    except (OSError, ValueError, LookupError, ParseError, DefusedXmlException) as error:
        problems.add("XML files", f"{path}: cannot be read as XML ({type(error).__name__}: {str(error)[:80]})")
        return None


def number_in(text: str | None) -> float:
    """Return the number in a text; NaN if there is none, or one that is no pixel."""
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if abs(value) < 1e9 else math.nan


def side_in(text: str | None) -> int | None:
    """Return the side of an image in a text; None if there is none."""
    value = number_in(text)
    return int(value) if value > 0 else None
