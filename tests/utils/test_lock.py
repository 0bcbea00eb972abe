"""A second run in the same folder raises, and a killed run leaves no lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ezsd.errors import ArtifactError
from ezsd.utils.lock import only_process

HOLD = """
import os, sys, time
from pathlib import Path
from ezsd.utils.lock import only_process
with only_process(Path(sys.argv[1])):
    if sys.argv[2] == "fork" and os.fork() == 0:
        time.sleep(30)  # a worker that outlives its killed parent
        os._exit(0)
    print(os.getpid(), flush=True)
    time.sleep(30)
"""


def _hold(folder: Path, kind: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), kind], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def test_folder_in_use_raises_with_the_process(tmp_path: Path) -> None:
    with _hold(tmp_path) as process:
        assert process.stdout is not None
        number = process.stdout.readline().strip()
        with pytest.raises(ArtifactError, match=f"in use by process {number}"), only_process(tmp_path):
            pass
        process.kill()
    with only_process(tmp_path):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_worker_that_outlives_a_killed_run_does_not_keep_the_lock(tmp_path: Path) -> None:
    process = _hold(tmp_path, "fork")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    try:
        with only_process(tmp_path):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_folder_that_cannot_be_created_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="Give another folder"), only_process(tmp_path / "file"):
        pass


def test_lock_is_released_after_the_context(tmp_path: Path) -> None:
    for _ in range(2):
        with only_process(tmp_path / "new"):
            assert (tmp_path / "new").is_dir()
