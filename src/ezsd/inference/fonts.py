"""Find a font that can write a name: the packaged one, or one of the system."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

logger = logging.getLogger(__name__)

PACKAGED = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"  # Latin, Greek, Cyrillic, Arabic, Georgian, Armenian
FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts",
    "/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts",
    "${WINDIR}/Fonts", "${LOCALAPPDATA}/Microsoft/Windows/Fonts",
)  # fmt: skip
_SUFFIXES = (".ttf", ".otf", ".ttc")
_SIDE = 16
_NO_LETTER = "\U0010ffff"  # a code point that no font has a glyph for


@lru_cache(maxsize=10_000)
def font_for(name: str) -> Path:
    """Return the packaged font if it has all letters of a name, else the system font that has the most of them.

    A name that no font has all letters of is noted once in the log; those letters are drawn as empty boxes.
    """
    letters = frozenset(letter for letter in name if letter.isprintable() and not letter.isspace())
    best, missing = PACKAGED, _missing(PACKAGED, letters)
    for path in _system_fonts() if missing else ():
        if len(less := _missing(path, letters)) < len(missing):
            best, missing = path, less
        if not missing:
            break
    if missing:
        logger.warning(
            f"No font of this system can write {name}: {''.join(sorted(missing))} is missing. Install one that can, "
            "such as one of the Noto Sans fonts."
        )
    return best


@lru_cache(maxsize=4096)
def _missing(path: Path, letters: frozenset[str]) -> frozenset[str]:
    """Return the letters that a font has no glyph for; all of them if it cannot be read."""
    try:
        font = ImageFont.truetype(path, _SIDE)
        empty = bytes(font.getmask(_NO_LETTER))
        return frozenset(letter for letter in letters if bytes(font.getmask(letter)) == empty)
    except (OSError, ValueError):
        return letters


def _system_fonts() -> Iterator[Path]:
    for folder in FOLDERS:
        place = Path(os.path.expandvars(folder)).expanduser()
        yield from (path for path in sorted(place.rglob("*")) if path.suffix.lower() in _SUFFIXES)
