"""Where an image ends in its file, and whether what follows is another file."""

from __future__ import annotations

import re
import struct

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)  # in the pixels of a JPEG, others are a part of them
_SOS, _EOI = 0xDA, 0xD9
_PNG_SIGNATURE = 8  # bytes
_STARTS = (b"MZ", b"\x7fELF", b"PK", b"#!", b"\x1f\x8b", b"BZh", b"<?xml")
_FILES = re.compile(  # long enough not to occur by chance in the video of a phone
    rb"%PDF-|Rar!\x1a\x07|7z\xbc\xaf\x27\x1c|<\?php|__HALT_COMPILER|<!doctype|<html|<script|<svg", re.IGNORECASE
)


def jpeg_end(data: bytes) -> tuple[int, int]:
    """Return where a JPEG ends, and the number of its scans; of a truncated one, the length of the data.

    Args:
        data: The file. Thumbnails and previews inside of segments are skipped.
    """
    place, scans = 2, 0
    while found := _MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if marker == _EOI:
            return place, scans
        scans += marker == _SOS
        place += int.from_bytes(data[place : place + 2], "big")
    return len(data), scans


def png_end(data: bytes) -> int:
    """Return where a PNG ends: after its chunk IEND."""
    place = _PNG_SIGNATURE
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        place += 12 + length
        if kind == b"IEND":
            return place
    return len(data)


def webp_end(data: bytes) -> int:
    """Return where a WebP ends: its RIFF header has the size, and odd sizes have a byte of padding."""
    size = int.from_bytes(data[4:8], "little")
    return 8 + size + size % 2


def is_padding(rest: bytes) -> bool:
    """Return whether bytes after an image mean nothing: zeros, ones and line ends."""
    return not rest.strip(b"\0\xff\r\n")


def has_other_file(rest: bytes) -> bool:
    """Return whether bytes after a JPEG are, or contain, an archive, a program, a document, a page or a script.

    Cameras and phones append much to a JPEG that is none of these: previews and further images, depth, the video of a
    moving image, and blocks of their maker.
    """
    return rest.lstrip(b"\0\xff\r\n").startswith(_STARTS) or _FILES.search(rest) is not None
