"""Memory of the process and of its device."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ezsd.errors import ArtifactError

Result = TypeVar("Result")

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # options of mallopt(3)
_NEVER = 2**31 - 1
_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")  # in messages of torch


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensors instead of returning it to the system; Linux only.

    By default glibc maps every block of more than 32 MB anew, and the kernel clears its pages each time. On a CPU this
    is a large part of the time of the teacher, whose activations are that large.
    """
    mallopt = _c_function("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _NEVER)


def return_freed_memory() -> None:
    """Return freed memory to the system; Linux only.

    After :func:`keep_freed_memory`, blocks of many sizes divide the kept memory more and more, so it grows with time.
    """
    trim = _c_function("malloc_trim")
    if trim is not None:
        trim(0)


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """Do not look for unused cycles of objects, which takes much of the time where millions of objects are made."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _c_function(name: str) -> Any:
    """Return a function of glibc; None on other systems and with musl."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the memory of the machine or of the device is not sufficient."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )


def in_halves(compute: Callable[[Any], list[Result]], items: Any) -> list[Result]:
    """Return what ``compute`` returns for all items; if memory is not sufficient, for halves of them one by one.

    Args:
        compute: Takes a part of the items.
        items: A sequence or a tensor.
    """
    try:
        return compute(items)
    except (RuntimeError, MemoryError) as error:
        if len(items) < 2 or not is_out_of_memory(error):
            raise
    half = len(items) // 2  # here, the tensors of the failed call are free
    return [*in_halves(compute, items[:half]), *in_halves(compute, items[half:])]


@contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Turn a lack of memory into an error that ends with ``advice``.

    Raises:
        ArtifactError: The memory of the machine or of the device is not sufficient.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or ["MemoryError"])[0][:200]
        raise ArtifactError(f"Memory is not sufficient ({reason}). {advice}") from None
