"""Decoding of image files, and the problems of files that cannot be decoded."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ezsd.data import images
from ezsd.data.images import check_images, decode_image, decode_pixels
from ezsd.errors import DataError, RecipeError


def _problems(files: list[tuple[Path, int, int]], decode: bool) -> list[str | None]:
    return [check.problem for check in check_images(files, decode)]


def _gradient(width: int = 48, height: int = 32) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 5, y * 5, np.full_like(x, 90)], axis=-1).astype(np.uint8))


def test_an_image_is_decoded_to_rgb_channels_first(tmp_path: Path) -> None:
    _gradient().save(tmp_path / "a.png")
    image = decode_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8 and image.shape == (3, 32, 48) and image.is_contiguous()
    assert image[:, 4, 10].tolist() == [50, 20, 90]


@pytest.mark.parametrize(
    ("mode", "name"),
    [("L", "a.jpg"), ("CMYK", "a.jpg"), ("RGBA", "a.png"), ("P", "a.gif"), ("1", "a.png"), ("LA", "a.png")],
)
def test_other_modes_are_converted_to_rgb(mode: str, name: str, tmp_path: Path) -> None:
    _gradient().convert(mode).save(tmp_path / name)
    assert decode_image(tmp_path / name).shape == (3, 32, 48)
    assert _problems([(tmp_path / name, 48, 32)], decode=True) == [None]


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    _gradient().save(tmp_path / "a.png", exif=exif)
    image = decode_image(tmp_path / "a.png")
    assert image.shape == (3, 48, 32)
    assert image[:, 10, 31 - 4].tolist() == [50, 20, 90]
    assert _problems([(tmp_path / "a.png", 32, 48)], decode=False) == [None]
    assert "32 x 48" in str(_problems([(tmp_path / "a.png", 48, 32)], decode=False)[0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg", "a.avif"])
def test_the_checked_size_is_that_of_the_decoded_image(name: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    _gradient().save(tmp_path / name, exif=exif)
    (check,) = check_images([(tmp_path / name, None, None)], decode=False)
    assert decode_image(tmp_path / name).shape == (3, check.height, check.width)
    assert check.turned == (orientation > 1) and check.problem is None


@pytest.mark.parametrize("name", ["a.heic", "a.jpg"])
def test_heic_images_are_read_whatever_their_name_is(name: str, tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    pillow_heif.from_pillow(_gradient()).save(tmp_path / name, quality=100)
    image = decode_image(tmp_path / name)
    assert image.shape == (3, 32, 48) and torch.allclose(image[:, 4, 10].float(), torch.tensor([50.0, 20, 90]), atol=12)
    assert decode_pixels(Path(name), io.BytesIO((tmp_path / name).read_bytes())).shape == (32, 48, 3)
    assert _problems([(tmp_path / name, 48, 32)], decode=True) == [None]


def test_without_the_reader_of_heic_images_the_message_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ezsd.data.images._reads_heic", lambda: False)
    for name, content in (("a.jpg", b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"), ("a.heif", b"")):
        (tmp_path / name).write_bytes(content)
        assert "pip install 'ezsd[heic]', or convert it to JPEG" in _error(tmp_path / name)
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x1cftypavif")
    assert "an AVIF image that this build of Pillow cannot read" in _error(tmp_path / "a.avif")


def test_truncated_files_are_found_although_only_some_of_many_images_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ezsd.data.images._MOST_DECODED", 2)
    _broken(tmp_path)
    names = ["good.jpg", "cut.jpg", "good.png", "cut.png", "good.jpg", "cut.jpg"]
    checks = check_images([(tmp_path / name, 48, 32) for name in names], decode=True)
    assert [check.problem is not None for check in checks] == ["cut" in name for name in names]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white_whatever_color_is_below(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 255, 0))
    image.paste((10, 10, 10, 255), (0, 0, 4, 8))
    image.convert(mode).save(tmp_path / "a.png")
    pixels = decode_image(tmp_path / "a.png")
    assert pixels[:, 4, 6].tolist() == [255, 255, 255]
    assert max(pixels[:, 4, 1].tolist()) < 20


def test_an_image_of_too_many_pixels_is_refused_with_the_limit_and_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    _gradient().save(tmp_path / "a.png")
    for text in (
        str(check_images([(tmp_path / "a.png", 48, 32)], decode=False)[0].problem),
        _error(tmp_path / "a.png"),
    ):
        assert "more than 1,000 pixels" in text and "EZSD_MAX_PIXELS" in text


@pytest.mark.parametrize(("text", "pixels"), [("400000000", 400_000_000), ("4e8", 400_000_000), ("1_000", 1000)])
def test_the_most_pixels_are_read_in_any_notation(text: str, pixels: int) -> None:
    assert images._most_pixels(text) == pixels


@pytest.mark.parametrize("text", ["many", "0", "-5", "nan", "inf", "400 MP"])
def test_a_number_of_pixels_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(RecipeError, match=f"EZSD_MAX_PIXELS is {text}: expected a number of pixels"):
        images._most_pixels(text)


def test_a_wrong_number_of_pixels_in_the_environment_ends_a_command_with_a_message(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "ezsd", "detect", "model.onnx", str(tmp_path), "--out", "out"]
    done = subprocess.run(words, env={**os.environ, "EZSD_MAX_PIXELS": "many"}, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "EZSD_MAX_PIXELS is many: expected" in done.stderr


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_color_with_16_bits_is_scaled_and_not_clipped(color_type: int, channels: int, tmp_path: Path) -> None:
    pixels = np.full((8, 8, channels), 0x8040, dtype=">u2")
    if channels in (2, 4):
        pixels[..., -1] = 0xFFFF
    path = tmp_path / "deep.png"
    path.write_bytes(_png_of_16_bits(pixels, color_type))
    assert decode_pixels(path)[3, 3].tolist() == [0x80] * 3
    assert _problems([(path, 8, 8)], decode=True) == [None]


def _png_of_16_bits(pixels: np.ndarray, color_type: int) -> bytes:
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def test_the_first_frame_of_an_animation_is_used(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ((200, 0, 0), (0, 200, 0))]
    for name in ("a.gif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        red, green, _ = decode_pixels(tmp_path / name)[4, 4].tolist()
        assert red > 180 and green < 20


def _error(path: Path) -> str:
    with pytest.raises(DataError) as raised:
        decode_image(path)
    return str(raised.value)


def _broken(folder: Path) -> dict[str, Path]:
    _gradient().save(folder / "good.jpg")
    _gradient().save(folder / "good.png")
    Image.fromarray(np.full((32, 48), 3000, dtype=np.uint16)).save(folder / "deep.png")
    jpeg, png = (folder / "good.jpg").read_bytes(), (folder / "good.png").read_bytes()
    contents = {
        "cut.jpg": jpeg[:-40], "cut.png": png[: len(png) // 2], "text.jpg": b"<html>not found</html>",
        "empty.jpg": b"",
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    return {name: folder / name for name in [*contents, "deep.png", "missing.jpg", "folder.jpg"]}


def test_errors_of_unreadable_images_name_the_path(tmp_path: Path) -> None:
    for path in _broken(tmp_path).values():
        with pytest.raises(DataError, match=path.name):
            decode_image(path)
    with pytest.raises(DataError, match="does not exist"):
        decode_image(tmp_path / "missing.jpg")
    with pytest.raises(DataError, match="8 bits per channel"):
        decode_image(tmp_path / "deep.png")


def test_image_problems_finds_every_broken_image_and_keeps_the_order(tmp_path: Path) -> None:
    broken = list(_broken(tmp_path).values())
    images = [path for bad in broken for path in (tmp_path / "good.jpg", bad, tmp_path / "good.png")] * 7
    problems = _problems([(path, 48, 32) for path in images], decode=True)
    assert [problem is not None for problem in problems] == [path in broken for path in images]
    assert all(problem is None or str(path) in problem for problem, path in zip(problems, images, strict=True))


def test_only_the_header_is_read_without_decode(tmp_path: Path) -> None:
    broken = _broken(tmp_path)
    assert _problems([(broken["cut.jpg"], 48, 32)], decode=False) == [None]
    unreadable = [(broken[name], 48, 32) for name in ("text.jpg", "missing.jpg", "deep.png")]
    assert None not in _problems(unreadable, decode=False)


def test_a_size_that_differs_from_the_annotations_is_reported(tmp_path: Path) -> None:
    _gradient().save(tmp_path / "a.jpg")
    for decode in (False, True):
        problem = _problems([(tmp_path / "a.jpg", 96, 64)], decode)[0]
        assert problem is not None and "48 x 32" in problem and "96 x 64" in problem
