"""Files that are either whole or not there: written beside their place, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from ezsd.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor  # recipes are read and their problems told without loading torch


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on failure it is removed.

    Raises:
        ArtifactError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(
            f"Cannot write {path}: {error}. What was computed before is kept; make room or fix the "
            "folder's permissions, then run the same command again."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that ezsd wrote.

    Raises:
        ArtifactError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing. Run the stage that writes it first.") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON: {error}. Remove it and run again.") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    with written_whole(path) as temporary:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata=dict(metadata or {}),
        )


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors (on the CPU) and its metadata.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing. Run the stage that writes it first.") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}. Remove it and run again.") from error


def digest(*parts: bytes | str | Path) -> str:
    """Return the SHA-256 of texts, bytes and file contents, in order (hexadecimal)."""
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
    """Read a JSON object that ezsd wrote; an empty one where there is no file."""
    return read_json(path) if path.is_file() else {}
