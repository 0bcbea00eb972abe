"""Files are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ezsd.errors import ArtifactError
from ezsd.utils.files import digest, read_json, read_tensors, write_json, write_tensors, written_whole

WRITE_AND_WAIT = """
import sys, time
from pathlib import Path
from ezsd.utils.files import written_whole
with written_whole(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from ezsd.errors import ArtifactError
from ezsd.utils.files import write_json, write_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    if sys.argv[2] == "json":
        write_json(Path(sys.argv[1]), "x" * 5000)
    else:
        write_tensors(Path(sys.argv[1]), {"x": torch.zeros(5000)})
except ArtifactError as error:
    print(error)
    sys.exit(2)
"""


def test_a_process_killed_while_writing_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_json(path, {"ap": 1})
    process = subprocess.Popen([sys.executable, "-c", WRITE_AND_WAIT, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert read_json(path) == {"ap": 1}
    write_json(path, {"ap": 2})
    assert read_json(path) == {"ap": 2}


def test_an_error_while_writing_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_json(path, {"ap": 1})
    with pytest.raises(KeyError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert read_json(path) == {"ap": 1}
    assert os.listdir(tmp_path) == ["figures.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes to stand in for a full disk")
@pytest.mark.parametrize("kind", ["json", "tensors"])
def test_a_full_disk_is_told_and_the_old_file_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "figures"
    path.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), kind], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert f"Cannot write {path}" in done.stdout
    assert "run the same command again" in done.stdout
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["figures"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="Cannot write"):
        write_json(tmp_path / "file" / "figures.json", 1)


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "deep" / "a.json", [1])
    assert read_json(tmp_path / "new" / "deep" / "a.json") == [1]


@pytest.mark.parametrize("content", [None, b"{", b"\xff"])
def test_json_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "figures.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"figures\.json"):
        read_json(path)


@pytest.mark.parametrize("damage", ["missing", "cut", "rubbish"])
def test_tensors_that_cannot_be_read_are_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.safetensors"
    if damage == "rubbish":
        path.write_bytes(b"rubbish")
    elif damage == "cut":
        write_tensors(path, {"x": torch.zeros(100)})
        os.truncate(path, 200)
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        read_tensors(path)


def test_tensors_come_back_bit_for_bit_with_their_notes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    values = torch.randn(3, 4).t()  # not contiguous
    write_tensors(path, {"x": values, "none": torch.zeros(0, 4)}, {"for": "a test"})
    tensors, notes = read_tensors(path)
    assert torch.equal(tensors["x"], values)
    assert tensors["none"].shape == (0, 4)
    assert notes == {"for": "a test"}


def test_a_digest_tells_apart_contents_orders_and_borders(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("ab")
    assert digest(path) == digest("ab") == digest(b"ab")
    assert len({digest("a", "b"), digest("b", "a"), digest("ab"), digest("ab", ""), digest()}) == 5
