"""Read the text files of data sets."""

from __future__ import annotations

import codecs
from pathlib import Path

from ezsd.errors import DataError


def decoded(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark, which PowerShell writes.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is in another encoding.
    """
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig")


def text_of(path: Path) -> str:
    """Return the text of a file; see :func:`decoded`.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return decoded(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as text: {error}. Save it as UTF-8.") from None
