"""Decode image files to upright RGB, and check them before training."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ezsd.errors import DataError, RecipeError
from ezsd.utils.progress import track

if TYPE_CHECKING:
    from torch import Tensor  # detecting with ONNX decodes images without torch

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
_CHUNK = 64
_MOST_DECODED = 5_000  # images; of more, every so many are decoded
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")  # brands in the first bytes
_BEHIND = (255, 255, 255, 255)  # transparent pixels are laid on white
_PIXELS = "EZSD_MAX_PIXELS"


def _most_pixels(text: str) -> int:
    """Return the number of pixels in the environment variable, such as ``400000000`` or ``4e8``.

    Raises:
        RecipeError: It is not a positive number.
    """
    try:
        pixels = int(float(text))
    except (ValueError, OverflowError):
        pixels = 0
    if pixels < 1:
        raise RecipeError(
            f"The environment variable {_PIXELS} is {text}: expected a number of pixels, such as 400000000 or 4e8."
        )
    return pixels


if os.environ.get(_PIXELS):
    Image.MAX_IMAGE_PIXELS = _most_pixels(os.environ[_PIXELS]) // 2  # Pillow refuses images of twice this number


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """What is known of an image file.

    Attributes:
        width: The width in pixels, after the EXIF orientation is applied; 0 if the file cannot be read.
        height: The height in pixels, after the EXIF orientation is applied; 0 if the file cannot be read.
        turned: Whether the EXIF orientation rotates or mirrors the image.
        problem: Why the image cannot be used, or None.
    """

    width: int
    height: int
    turned: bool
    problem: str | None


def decode_image(path: Path) -> Tensor:
    """Decode an image file to a uint8 RGB tensor [3, H, W], upright; see :func:`upright_rgb`.

    Raises:
        DataError: The file is missing, damaged, not an image, too large, or has more than 8 bits per channel.
    """
    import torch

    return torch.from_numpy(decode_pixels(path)).permute(2, 0, 1).contiguous()


def decode_pixels(path: Path, content: BinaryIO | None = None) -> np.ndarray[Any, Any]:
    """Decode an image file to a uint8 RGB array [H, W, 3], upright; see :func:`upright_rgb`.

    Args:
        path: The file, or the name of the image in messages if ``content`` is given.
        content: The content of the file; None = read ``path``.

    Raises:
        DataError: The file is missing, damaged, not an image, or has more than 8 bits per channel.
    """
    try:
        with open_image(path if content is None else content) as image:
            return np.array(upright_rgb(image))
    except BROKEN as error:
        raise DataError(_message(path, error)) from None


def open_image(source: Path | BinaryIO) -> Image.Image:
    """Open an image file, as Pillow does; HEIC files are read by pillow-heif if it is installed.

    Raises:
        One of ``BROKEN``: The file is missing, or its header cannot be read.
    """
    try:
        return Image.open(source)
    except UnidentifiedImageError:
        if not _reads_heic():
            raise
        if not isinstance(source, Path):
            source.seek(0)
        return Image.open(source)  # phones and exports also name HEIC files .jpg, so every file is tried


@lru_cache(maxsize=1)
def _reads_heic() -> bool:
    """Let Pillow read HEIC files; return whether the optional package for it is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB with its EXIF orientation applied. Transparent pixels are laid on white.

    Of an animation, the first frame is used. Of color images with 16 bits per channel, Pillow reads the upper 8.

    Raises:
        ValueError: The image is gray with more than 8 bits, or has floating-point pixels; its range is not known.
    """
    _refuse_deep(image)
    upright = ImageOps.exif_transpose(image)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    colors = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colors.size, _BEHIND), colors).convert("RGB")


def check_images(images: Sequence[tuple[Path, int | None, int | None]], decode: bool) -> list[ImageCheck]:
    """Check image files in parallel.

    Args:
        images: The path of each image, and its width and height (pixels) in the annotations; None if they have none.
        decode: Decode the pixels, which finds damaged files; of more than 5,000 images, an even selection of them, and
            the files that do not end as their format does. Otherwise only the headers are read.
    """
    every = -(-len(images) // _MOST_DECODED)

    def check(start: int) -> list[ImageCheck]:
        chunk = enumerate(images[start : start + _CHUNK], start)
        return [
            _check(path, width, height, _Depth(decode and place % every == 0, decode))
            for place, (path, width, height) in chunk
        ]

    chunks = range(0, len(images), _CHUNK)
    checks: list[ImageCheck] = []
    progress = track(len(images), "Checking images") if decode else nullcontext(lambda n, text="": None)
    with progress as advance, ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        for part in pool.map(check, chunks):
            checks += part
            advance(len(part), "")
    return checks


class _Depth(NamedTuple):
    """How much of a file is read."""

    pixels: bool
    end: bool


def _check(path: Path, width: int | None, height: int | None, depth: _Depth) -> ImageCheck:
    try:
        with open_image(path) as image:
            _refuse_deep(image)
            orientation = image.getexif().get(_ORIENTATION, 1)
            raw = image.size
            sideways = orientation in _SIDEWAYS and image.format != "TIFF"  # Pillow opens a TIFF upright
            size = raw[::-1] if sideways else raw
            if depth.pixels or (depth.end and not _has_end(path, image.format or "")):
                image.draft("RGB", (1, 1))  # JPEG is decoded at 1/8 size: faster, and still reads all data
                image.load()
    except BROKEN as error:
        return ImageCheck(0, 0, False, _message(path, error))
    turned = orientation in range(2, 9)
    expected = width or size[0], height or size[1]
    if size == expected:
        return ImageCheck(size[0], size[1], turned, None)
    problem = f"{path}: {size[0]} x {size[1]} pixels, but the annotations say {expected[0]} x {expected[1]}"
    if turned and size[::-1] == expected:
        problem += (
            f", its size before its EXIF orientation {orientation} turns it. Images are read upright: save it upright "
            "(as with mogrify -auto-orient) and label it again; if its boxes are upright, write the upright size"
        )
    elif size[::-1] == expected:
        problem += ": are width and height exchanged, or was the image turned after it was labelled?"
    return ImageCheck(size[0], size[1], turned, problem)


def _has_end(path: Path, image_format: str) -> bool:
    """Return whether the last bytes of a JPEG or PNG file have its end marker, as truncated files have not."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        return _ENDS.get(image_format, b"") in file.read()


def _refuse_deep(image: Image.Image) -> None:
    if image.mode[:1] in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}; expected 8 bits per channel; convert the image")


def _message(path: Path, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: the image does not exist"
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"{path}: more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels. Make the image smaller or cut it into "
            f"tiles, or set the environment variable {_PIXELS} to a larger number of pixels"
        )
    if isinstance(error, UnidentifiedImageError):
        return f"{path}: {_unknown_format(path)}"
    return f"{path}: cannot be read as an image ({error})"


def _unknown_format(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:  # the image was read from memory
        head = b""
    if head[8:12] in (b"avif", b"avis") or path.suffix.lower() == ".avif":
        return "an AVIF image that this build of Pillow cannot read; convert it to JPEG"
    if (head[8:12] in _HEIC or path.suffix.lower() in (".heic", ".heif")) and not _reads_heic():
        return "a HEIC image; install its reader with: pip install 'ezsd[heic]', or convert it to JPEG"
    return "not an image, or an unknown image format"
