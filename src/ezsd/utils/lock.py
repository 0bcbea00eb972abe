"""Lock a run folder, so that only one process uses it at a time."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ezsd.errors import ArtifactError

LOCK = ".lock"


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Lock the folder for this process and create it if missing; the lock ends with the process, even if it is killed.

    Raises:
        ArtifactError: If another process has locked the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"Cannot write in {folder}: {error}. Give another folder.") from None
    with file:
        if not _locked(file.fileno()):
            file.seek(0)
            raise ArtifactError(
                f"{folder} is in use by {file.read().strip() or 'another process'}. "
                "Wait until that process ends, stop it, or give another folder."
            )
        with suppress(OSError):  # on a full disk the lock holds all the same
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}\n".encode())
        yield


def _locked(descriptor: int) -> bool:
    """Try to lock the file; locks belong to the process, so workers that outlive a killed run do not keep it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(
                descriptor, 1 << 30, os.SEEK_SET
            )  # Windows prevents reading of locked bytes, so lock far from the text
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
