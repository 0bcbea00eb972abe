"""Images in memory and on disk as pixels; without torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from PIL import Image

from ezsd.data.images import BROKEN, decode_pixels, upright_rgb
from ezsd.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor  # detecting with ONNX works without torch

T = TypeVar("T")
ImageInput: TypeAlias = "str | Path | Image.Image | np.ndarray[Any, Any] | Tensor"


def read_any(image: ImageInput) -> Tensor:
    """Convert an image in any accepted format to a uint8 RGB tensor [3, H, W]; see :func:`read_pixels`."""
    import torch

    return torch.from_numpy(read_pixels(image)).permute(2, 0, 1)


def read_pixels(image: ImageInput) -> np.ndarray[Any, Any]:
    """Convert an image in any accepted format to a uint8 RGB array [H, W, 3] of its own.

    Raises:
        DataError: The file is missing or damaged, or the pixels have an unsupported shape or type.
    """
    if isinstance(image, (str, Path)):
        return decode_pixels(Path(image))
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise DataError(
                f"The array has shape {image.shape} and type {image.dtype}; expected [H, W, 3] uint8 in RGB order."
                f"{_of_batch(image.ndim)}"
            )
        return image.copy()
    if is_tensor(image):
        return _from_tensor(image.detach().cpu())
    raise DataError(f"Expected an image as a path, a PIL image, an array or a tensor; got {type(image).__name__}.")


def in_parts(
    images: Iterable[T], pixels: Callable[[T], np.ndarray[Any, Any]], most: int, most_pixels: int = 100_000_000
) -> Iterator[list[T]]:
    """Yield images in parts that fit into memory.

    Args:
        images: Images, or what contains them; read as they are needed.
        pixels: Returns the pixels [H, W, 3] of an image.
        most: The maximum number of images of a part.
        most_pixels: A part ends with the image that reaches this number of pixels (3 bytes each).
    """
    part: list[T] = []
    size = 0
    for image in images:
        part.append(image)
        size += pixels(image).size // 3
        if len(part) == most or size >= most_pixels:
            yield part
            part, size = [], 0
    if part:
        yield part


def is_tensor(value: Any) -> bool:
    """Return whether a value is a tensor of torch, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _of_batch(dimensions: int) -> str:
    return " Give a batch as a list: list(images)." if dimensions == 4 else ""


def _from_pil(image: Image.Image) -> np.ndarray[Any, Any]:
    if image.mode[:1] in ("I", "F"):
        raise DataError(f"The image has pixels of mode {image.mode}; expected 8 bits per channel; convert the image.")
    try:
        return np.array(upright_rgb(image))
    except BROKEN as error:  # PIL reads the file only here
        raise DataError(f"The image cannot be read: {error}.") from None


def _from_tensor(image: Tensor) -> np.ndarray[Any, Any]:
    problem = f"The tensor has shape {list(image.shape)} and type {image.dtype}"
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise DataError(f"{problem}; expected [3, H, W] in RGB order.{_of_batch(image.ndim)}")
    if image.is_floating_point():
        if not (float(image.min()) >= 0 and float(image.max()) <= 1):
            raise DataError(f"{problem}; expected uint8, or float with values in 0..1.")
        image = (image * 255).round().byte()
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    if pixels.dtype != np.uint8:
        raise DataError(f"{problem}; expected uint8, or float with values in 0..1.")
    return pixels.copy()
