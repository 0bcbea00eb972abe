"""Files are written completely or not at all, even if writing fails or is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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


def test_process_killed_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
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


def test_error_while_writing_keeps_the_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_json(path, {"ap": 1})
    with pytest.raises(KeyError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert read_json(path) == {"ap": 1}
    assert os.listdir(tmp_path) == ["figures.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file size limit to simulate a full disk")
@pytest.mark.parametrize("kind", ["json", "tensors"])
def test_full_disk_raises_and_keeps_the_old_file(tmp_path: Path, kind: str) -> None:
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


def test_folder_that_cannot_be_created_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="Cannot write"):
        write_json(tmp_path / "file" / "figures.json", 1)


def test_missing_folders_are_created(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "deep" / "a.json", [1])
    assert read_json(tmp_path / "new" / "deep" / "a.json") == [1]


@pytest.mark.parametrize("content", [None, b"{", b"\xff"])
def test_unreadable_json_raises_with_the_file_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "figures.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"figures\.json"):
        read_json(path)


@pytest.mark.parametrize("damage", ["missing", "truncated", "invalid"])
def test_unreadable_tensors_raise_with_the_file_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.safetensors"
    if damage == "invalid":
        path.write_bytes(b"invalid")
    elif damage == "truncated":
        write_tensors(path, {"x": torch.zeros(100)})
        os.truncate(path, 200)
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        read_tensors(path)


def test_tensors_and_metadata_are_restored_bit_identically(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    values = torch.randn(3, 4).t()  # not contiguous
    write_tensors(path, {"x": values, "none": torch.zeros(0, 4)}, {"for": "a test"})
    tensors, metadata = read_tensors(path)
    assert torch.equal(tensors["x"], values)
    assert tensors["none"].shape == (0, 4)
    assert metadata == {"for": "a test"}


def test_digest_depends_on_contents_order_and_boundaries(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("ab")
    assert digest(path) == digest("ab") == digest(b"ab")
    assert len({digest("a", "b"), digest("b", "a"), digest("ab"), digest("ab", ""), digest()}) == 5


def test_tensors_can_be_read_by_other_users_like_other_files(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)})
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "a.json").stat().st_mode


def test_tensors_of_all_types_and_notes_are_read_back(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(3.0), "none": torch.zeros(0, 4), "half": torch.rand(3).half(),
        "bfloat": torch.rand(2, 2).bfloat16(), "bool": torch.tensor([True, False]), "long": torch.arange(3),
    }  # fmt: skip
    write_tensors(tmp_path / "x.safetensors", tensors, {"teacher": "a"})
    read, notes = read_tensors(tmp_path / "x.safetensors")
    assert notes == {"teacher": "a"}
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_equal_tensors_and_notes_give_equal_files(tmp_path: Path) -> None:
    notes = {"teacher": "a", "weights_digest": "b", "towers": "c", "detector": "d"}
    for name in "ab":
        write_tensors(tmp_path / name, {"x": torch.ones(2), "y": torch.ones(1)}, notes)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tensors_of_other_programs_have_no_checksum(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert read_tensors(tmp_path / "x.safetensors")[1] == {"format": "pt"}
