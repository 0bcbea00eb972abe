"""Tests of images from strangers."""

from __future__ import annotations

import struct
import zipfile
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ezsd.deploy.service.image_end import jpeg_end, png_end, webp_end
from ezsd.deploy.service.limits import Limits
from ezsd.deploy.service.messages import Refusal
from ezsd.deploy.service.uploads import Upload, check_upload, decode_upload
from service import image_bytes

LIMITS = Limits(megapixels=1)
JPEG, PNG, WEBP = image_bytes(), image_bytes(kind="PNG"), image_bytes(kind="WEBP")
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def _refused(data: bytes, content_type: str = "") -> Refusal:
    upload = Upload("street.jpg", data, content_type)
    with pytest.raises(Refusal) as caught:
        check_upload(upload, LIMITS)
        decode_upload(upload)
    assert "street.jpg" in caught.value.detail
    return caught.value


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("declared", ["", "application/octet-stream", "own"])
def test_common_images_are_decoded(kind: str, declared: str) -> None:
    data = image_bytes(kind=kind)
    upload = Upload("street", data, f"image/{kind.lower()}" if declared == "own" else declared)
    check_upload(upload, LIMITS)
    expected = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    assert (decode_upload(upload) == expected).all()


def test_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_upload(Upload("street", image_bytes((96, 64), exif=exif.tobytes()))).shape == (96, 64, 3)


def _png_bomb(width: int, height: int) -> bytes:
    """A valid PNG of zeros that is a thousand times smaller than its pixels."""
    row = b"\0" + bytes(width // 8)
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 24_000])  # beyond the limit of the service, and beyond that of Pillow
def test_a_bomb_is_refused_before_its_pixels_are_decoded(side: int) -> None:
    bomb = _png_bomb(side, side)
    assert len(bomb) < side * side / 1000
    assert _refused(bomb).status_code == 413


def test_a_jpeg_with_thousands_of_scans_is_refused() -> None:
    data = image_bytes(progressive=True)
    check_upload(Upload("progressive", data), LIMITS)
    last = data.rfind(b"\xff\xda")
    assert _refused(data[:last] + data[last:-2] * 1000 + data[-2:]).status_code == 415


@pytest.mark.parametrize("data", [b"", b"GIF89a;", SVG, b"<html>", b"\0" * 1000, b"%PDF-1.7\n", JPEG[:1]])
def test_other_files_are_refused(data: bytes) -> None:
    assert _refused(data).status_code == 415


def test_a_wrong_declared_type_is_refused() -> None:
    assert _refused(PNG, "image/jpeg").status_code == 415
    assert _refused(JPEG, "image/svg+xml").status_code == 415
    assert _refused(JPEG, "text/html").status_code == 415


def test_files_of_two_kinds_are_refused() -> None:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("index.html", "<script>alert(1)</script>")
    assert _refused(JPEG + archive.getvalue()).status_code == 415
    as_comment = JPEG[:2] + b"\xff\xfe\x00\x0b%PDF-1.7\n" + JPEG[2:]
    assert _refused(as_comment).status_code == 415
    assert _refused(SVG + JPEG).status_code == 415


MOVING = b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(4_000_000)  # has about 60 times the bytes of a scan
SAMSUNG = b"\0\0\x01\x0aMCC_Data262SEFHk\0\0\0\x01\0\0\0$\0\0\0SEFT"


def _with_thumbnail() -> bytes:
    """A JPEG with a JPEG inside of its EXIF segment."""
    inner = image_bytes((16, 16))
    segment = b"Exif\0\0" + inner
    return JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + JPEG[2:]


NESTED = _with_thumbnail()


@pytest.mark.parametrize(
    "data",
    [
        JPEG + bytes(4096), JPEG + b"\r\n", JPEG + b"\xff" * 64, JPEG + JPEG + bytes(100) + JPEG, JPEG + MOVING * 2,
        JPEG + SAMSUNG, NESTED + SAMSUNG, PNG + bytes(512), WEBP + b"\n", image_bytes(progressive=True) + MOVING,
    ],
)  # fmt: skip
def test_what_cameras_append_and_padding_are_accepted(data: bytes) -> None:
    upload = Upload("street", data)
    check_upload(upload, LIMITS)
    assert decode_upload(upload).shape == (64, 96, 3)


@pytest.mark.parametrize("image", [JPEG, PNG, WEBP, NESTED, image_bytes(progressive=True)])
@pytest.mark.parametrize(
    "rest",
    [
        SVG, b"<html><body>", b"\0\0 <!DOCTYPE html>", b"<?php system($_GET[0]);", b"\nMZ\x90\0", b"\x7fELF\x02\x01",
        b"#!/bin/sh\nid", b"Rar!\x1a\x07\x01\0", b"7z\xbc\xaf\x27\x1c\0\x04", b"text <script>alert(1)</script>",
        b"garbage " * 200 + b"%PDF-1.7", b"\x1f\x8b\x08\0",
    ],
)  # fmt: skip
def test_another_file_after_an_image_is_refused(image: bytes, rest: bytes) -> None:
    refusal = _refused(image + rest)
    assert refusal.status_code == 415 and "the end of the image. Save the image again" in refusal.detail


def test_a_page_behind_what_a_phone_appends_is_refused() -> None:
    assert _refused(JPEG + SAMSUNG + b"<script>alert(1)</script>").status_code == 415
    assert _refused(JPEG + MOVING + b"<svg onload=alert(1)>").status_code == 415


@pytest.mark.parametrize("image", [PNG, WEBP])
def test_nothing_but_padding_may_follow_png_and_webp(image: bytes) -> None:
    assert "9 bytes follow the end" in _refused(image + b"old pixel").detail
    assert _refused(image + image).status_code == 415


@given(st.binary(max_size=300))
def test_the_end_is_found_in_any_bytes(noise: bytes) -> None:
    assert 0 <= jpeg_end(noise)[0] <= max(len(noise), 2) and png_end(noise) >= 0 and webp_end(noise) >= 8


def test_the_end_of_an_image_is_its_last_byte() -> None:
    assert jpeg_end(JPEG + MOVING) == (len(JPEG), 1)
    assert jpeg_end(NESTED + JPEG) == (len(NESTED), 1)
    assert jpeg_end(JPEG[:-2]) == (len(JPEG) - 2, 1)
    assert png_end(PNG + JPEG) == len(PNG) and webp_end(WEBP + JPEG) == len(WEBP)


@pytest.mark.parametrize("data", [JPEG, PNG, image_bytes(kind="WEBP")])
def test_truncated_files_are_refused(data: bytes) -> None:
    assert _refused(data[: len(data) * 2 // 3]).status_code in (415, 422)


def test_deep_pixels_are_refused() -> None:
    file = BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(file, "PNG")
    assert _refused(file.getvalue()).status_code == 422


@settings(max_examples=300)
@given(st.sampled_from([JPEG, PNG, image_bytes(kind="WEBP")]), st.integers(0, 2000), st.binary(min_size=1, max_size=30))
def test_damage_anywhere_is_decoded_or_refused(data: bytes, place: int, noise: bytes) -> None:
    place %= len(data)
    upload = Upload("street", data[:place] + noise + data[place + len(noise) :])
    try:
        check_upload(upload, LIMITS)
        assert decode_upload(upload).shape[2] == 3
    except Refusal as refusal:
        assert refusal.status_code in (413, 415, 422)
