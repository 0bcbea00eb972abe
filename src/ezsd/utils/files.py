"""Atomic writing and reading of files: each file is written to a temporary path, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ezsd.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor  # reading recipes does not load torch

_CHECKSUM = "sha256"
_NOTES = "ezsd"  # the key of the metadata of safetensors that has all notes as JSON
_AGAIN = "Remove it and run again."


def cache_folder() -> Path:
    """Return ``$EZSD_CACHE``, or ``~/.cache/ezsd`` if it is not set."""
    return Path(os.environ.get("EZSD_CACHE") or Path.home() / ".cache" / "ezsd")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; on success it replaces ``path``, on failure it is removed.

    Raises:
        ArtifactError: If the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Append ``text`` to a file; the end of it is lost if the process is killed or the disk is full.

    Raises:
        ArtifactError: If the disk is full or the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"Cannot write {path}: {error}. Earlier results are kept. Free disk space or fix the "
        "permissions of the folder, then run the same command again."
    )


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file written by ezsd.

    Raises:
        ArtifactError: If the file is missing or is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing. Run the stage that writes it first.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON: {error}. {_AGAIN}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file written by ezsd.

    Raises:
        ArtifactError: If the file is missing or contains something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is not a JSON object. {_AGAIN}")
    return value


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects in the lines of a file, without lines that were not written to their end."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return [value for value in found if isinstance(value, dict)]


def write_checked_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum of its content, atomically."""
    write_json(path, {**value, _CHECKSUM: _json_checksum(value)})


def read_checked_json(path: Path) -> dict[str, Any]:
    """Return a JSON object that :func:`write_checked_json` wrote, or an older version without a checksum.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    value = read_json_object(path)
    expected = value.pop(_CHECKSUM, None)
    if expected not in (None, _json_checksum(value)):
        raise ArtifactError(_damaged(path))
    return value


def _json_checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors with a checksum of their content, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    notes = dict(metadata or {})
    with written_whole(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            about = json.dumps({**notes, _CHECKSUM: _tensor_checksum(content, notes)}, sort_keys=True)
            save_file(content, temporary, metadata={_NOTES: about})  # several keys would be in random order
        except SafetensorError as error:
            raise OSError(str(error)) from None
        temporary.chmod(mode)  # safetensors makes files for their owner only; a container is another user


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors (on the CPU) and metadata of a safetensors file. Files of other programs have no checksum.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            notes = dict(file.metadata() or {})
            notes |= json.loads(notes.pop(_NOTES, "{}"))
    except FileNotFoundError:
        if path.exists():  # safetensors says this, too, when the file may not be read
            raise ArtifactError(f"{path} cannot be read by this user. Change the permissions of the file.") from None
        raise ArtifactError(f"{path} is missing. Run the stage that writes it first.") from None
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}. {_AGAIN}") from error
    expected = notes.pop(_CHECKSUM, None)
    if expected not in (None, _tensor_checksum(tensors, notes)):
        raise ArtifactError(_damaged(path))
    return tensors, notes


def _tensor_checksum(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> str:
    import torch

    total = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _damaged(path: Path) -> str:
    return f"{path} is damaged: its content does not have the checksum that was written with it. {_AGAIN}"


def digest(*parts: bytes | str | Path) -> str:
    """Return the SHA-256 of texts, bytes and file contents, in order, as a hexadecimal string."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            total.update(_file_digest(part))
        else:
            total.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return total.hexdigest()


def _file_digest(path: Path) -> bytes:
    if not hasattr(hashlib, "file_digest"):  # Python 3.10
        return hashlib.sha256(path.read_bytes()).digest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def read_json_if_exists(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file written by ezsd, or an empty one if the file does not exist."""
    return read_json_object(path) if path.is_file() else {}
