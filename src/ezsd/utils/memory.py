"""Memory of the process."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # options of mallopt(3)
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensors instead of returning it to the system; Linux only.

    By default glibc maps every block of more than 32 MB anew, and the kernel clears its pages each time. On a CPU this
    is a large part of the time of the teacher, whose activations are that large.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _NEVER)
