"""Read the text files of data sets."""

from __future__ import annotations

import codecs
from pathlib import Path

from ezsd.errors import DataError

_CONTEXT = 40  # bytes that are shown


def as_text(data: bytes, encoding: str, errors: str = "strict") -> str:
    """Return bytes as text.

    Raises:
        ValueError: They are in another encoding. The message says where, and what to do.
    """
    try:
        return data.decode(encoding, errors)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        before = data[max(0, error.start - _CONTEXT) : error.start].decode("ascii", "replace").rpartition("\n")[2]
        after = f" after {before!r}" if before.strip() else ""
        raise ValueError(
            f"line {line} is not {encoding.upper()}{after}, so the file has another encoding, such as GBK, Shift-JIS "
            "or Latin-1. Save it as UTF-8, as with iconv -f GBK -t UTF-8"
        ) from None


def decoded(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark, which PowerShell writes.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is in another encoding.
    """
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return as_text(data, "utf-16")
    return as_text(data.removeprefix(codecs.BOM_UTF8), "utf-8")


def text_of(path: Path) -> str:
    """Return the text of a file; see :func:`decoded`.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return decoded(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as text: {error}.") from None
