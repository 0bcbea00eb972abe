"""Decode image files to upright RGB, and check them before training."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ezsd.errors import DataError
from ezsd.utils.progress import track

if TYPE_CHECKING:
    from torch import Tensor  # detecting with ONNX decodes images without torch

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
_CHUNK = 64


def decode_image(path: Path) -> Tensor:
    """Decode an image file to a uint8 RGB tensor [3, H, W], with its EXIF orientation applied.

    Raises:
        DataError: The file is missing, damaged, not an image, or has more than 8 bits per channel.
    """
    import torch

    return torch.from_numpy(decode_pixels(path)).permute(2, 0, 1).contiguous()


def decode_pixels(path: Path, content: BinaryIO | None = None) -> np.ndarray[Any, Any]:
    """Decode an image file to a uint8 RGB array [H, W, 3], with its EXIF orientation applied.

    Args:
        path: The file, or the name of the image in messages if ``content`` is given.
        content: The content of the file; None = read ``path``.

    Raises:
        DataError: The file is missing, damaged, not an image, or has more than 8 bits per channel.
    """
    try:
        with Image.open(path if content is None else content) as image:
            _refuse_deep(image)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UNREADABLE as error:
        raise DataError(_message(path, error)) from None


def image_problems(images: Sequence[tuple[Path, int, int]], decode: bool) -> list[str | None]:
    """Check image files in parallel.

    Args:
        images: The path of each image, and its width and height (pixels) in the annotations.
        decode: Decode the pixels, which finds truncated files. Otherwise only the header is read.

    Returns:
        The problem of each image, or None.
    """

    def check(chunk: Sequence[tuple[Path, int, int]]) -> list[str | None]:
        return [_problem(path, width, height, decode) for path, width, height in chunk]

    chunks = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
    problems: list[str | None] = []
    progress = track(len(images), "Checking images") if decode else nullcontext(lambda n, text="": None)
    with progress as advance, ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        for part in pool.map(check, chunks):
            problems += part
            advance(len(part), "")
    return problems


def _problem(path: Path, width: int, height: int, decode: bool) -> str | None:
    try:
        with Image.open(path) as image:
            _refuse_deep(image)
            size = image.size[::-1] if image.getexif().get(_ORIENTATION) in _SIDEWAYS else image.size
            if decode:
                image.draft("RGB", (1, 1))  # JPEG is decoded at 1/8 size: faster, and still reads all data
                image.load()
    except UNREADABLE as error:
        return _message(path, error)
    if size != (width, height):
        return f"{path}: {size[0]} x {size[1]} pixels, but the annotations say {width} x {height}"
    return None


def _refuse_deep(image: Image.Image) -> None:
    if image.mode[:1] in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}; expected 8 bits per channel; convert the image")


def _message(path: Path, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: the image does not exist"
    if isinstance(error, UnidentifiedImageError):
        return f"{path}: not an image, or an unknown image format"
    return f"{path}: cannot be read as an image ({error})"
