"""Errors of the processes that read images."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ezsd.errors import ArtifactError, EzsdError
from ezsd.utils.format import byte_size

_SHARED = Path("/dev/shm")


@contextmanager
def worker_errors() -> Iterator[None]:
    """Turn the errors of DataLoader workers into errors that say which setting helps.

    Raises:
        ArtifactError: A worker ended, or shared memory is full.
    """
    try:
        yield
    except EzsdError as error:
        text = str(error)
        if "DataLoader worker" not in text:
            raise
        raise type(error)(text.rstrip().splitlines()[-1].partition(": ")[2]) from None  # without the worker's traceback
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ArtifactError(_message(str(error))) from None


def end_if_worker_imports_script() -> None:
    """End a worker that runs the user's script again, because it has no main guard; the first process explains it."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)


def _message(text: str) -> str:
    if "shared memory" in text or "Bus error" in text:
        size = f" of {byte_size(shutil.disk_usage(_SHARED).total)}" if _SHARED.is_dir() else ""
        return (
            f"Shared memory{size} is too small for the processes that read images. Set data.workers: 0, or start the "
            "container with --shm-size=2g. Running the same command again resumes."
        )
    if multiprocessing.get_start_method() != "fork":
        return (
            "The processes that read images ended at their start. They import the script that started them: put its "
            'calls under if __name__ == "__main__":, or set data.workers: 0.'
        )
    return (
        f"A process that reads images has ended ({text.splitlines()[0][:120]}). Often memory is short: set "
        "data.workers to 0 or a smaller number. Running the same command again resumes."
    )
