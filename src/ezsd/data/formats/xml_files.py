"""Read XML files of data sets, and the numbers in them."""

from __future__ import annotations

import codecs
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from ezsd.data.formats.problems import Problems

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


_DECLARED = re.compile(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.-]+)")
UNREADABLE = "\N{REPLACEMENT CHARACTER}"  # stands for bytes that are not of the encoding of a file


def read_xml(path: Path, problems: Problems) -> Element | None:
    """Return the root of an XML file; None if it cannot be read, which is added to the problems.

    If some bytes are not of the encoding of the file, all that are not ASCII become ``UNREADABLE``: often they are in
    what is not used, such as the path of the image on another machine. Tags are in small letters, without namespaces.
    """
    try:
        root: Element = fromstring(_text_of(path.read_bytes()))
    except (OSError, ValueError, LookupError, ParseError, DefusedXmlException) as error:
        problems.add("XML files", f"{path}: cannot be read as XML ({type(error).__name__}: {str(error)[:80]})")
        return None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2].lower()
    return root


def _text_of(data: bytes) -> str | bytes:
    """Return XML as text, because the parser knows few encodings; in UTF-16, which it knows, as it is."""
    if b"\0" in data[:4]:
        return data
    data = data.removeprefix(codecs.BOM_UTF8)
    declared = _DECLARED.match(data)
    encoding = declared[1].decode() if declared else "utf-8"
    try:
        usable = b"\0" not in "<".encode(encoding)  # else a false declaration, usual in files of .NET
    except (LookupError, ValueError):
        usable = False
    try:
        return data.decode(encoding if usable else "utf-8")
    except ValueError:
        return data.decode("ascii", "replace")  # other bytes can look valid, but be of the other encoding, too


def encoding_problem(text: str) -> str | None:
    """Return what is wrong with a text that has bytes of another encoding than its file; else None."""
    if UNREADABLE not in text:
        return None
    return (f"{text[:80]!r} has bytes of another encoding than the file says. Save the file as UTF-8, or write its "
            'encoding in its first line: <?xml version="1.0" encoding="GBK"?>')  # fmt: skip


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
    return int(value) if value >= 1 else None
