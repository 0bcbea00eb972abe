"""Memory-mapped store of CLIP proposals and the teacher's region embeddings, written by stage propose.

Each shard is an Arrow IPC file with one row per box and fp16 embeddings (2 x D bytes). Shards are written atomically.
Their metadata maps rows to images and contains a key of the settings they were computed with, and a checksum.
``index.json`` is written last, so a store with an index is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ezsd.errors import ArtifactError
from ezsd.run_folder import TargetsFolder
from ezsd.utils.files import read_checked_json, write_checked_json, written_whole

_MOST_OPEN_SHARDS = 4096  # of a million images
_CHECKSUM = "sha256"
_ADVICE = "Run stage propose again; finished shards are kept."


@dataclass(frozen=True)
class Regions:
    """The distillation targets of one image: proposals in descending order of score, then base boxes.

    Attributes:
        boxes: ``[N, 4]`` float32 xyxy, absolute pixels.
        embeddings: ``[N, D]`` float16, unit-length embeddings of the teacher.
        weights: ``[N]`` confidence of the teacher in 0..1 (times objectness, if enabled); 1 for base boxes.
        scores: ``[N]`` ranking scores of the proposals (higher is better); 1 for base boxes.
        labels: ``[N]`` int64, 1-based index of the best name among the names of the split (base, then novel).
        is_base_box: ``[N]`` bool.
    """

    boxes: Tensor
    embeddings: Tensor
    weights: Tensor
    scores: Tensor
    labels: Tensor
    is_base_box: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor) -> Regions:
        """Select boxes with an index tensor or a boolean mask ``[N]``."""
        return Regions(*(getattr(self, field.name)[index] for field in fields(self)))

    @staticmethod
    def empty(embedding_dim: int) -> Regions:
        """Return regions with zero boxes."""
        nothing = torch.zeros(0)
        return Regions(
            torch.zeros(0, 4), torch.zeros(0, embedding_dim).half(), nothing, nothing, nothing.long(), nothing.bool()
        )


def write_shard(path: Path, regions_by_image: Mapping[int, Regions], notes: Mapping[str, Any]) -> None:
    """Write the regions of one or more images to a shard, atomically.

    Args:
        path: The path of the shard.
        regions_by_image: The regions by image id. At least one image; all embeddings have the same dimension.
        notes: JSON values for the metadata of the shard (key, cost).

    Raises:
        ArtifactError: The disk is full, or the folder is not writable.
    """
    parts = list(regions_by_image.values())
    offsets = np.cumsum([0, *map(len, parts)]).tolist()
    columns = {
        "box": _list_column(torch.cat([part.boxes for part in parts]).float()),
        "embedding": _list_column(torch.cat([part.embeddings for part in parts]).half()),
        "weight": pa.array(torch.cat([part.weights for part in parts]).float().numpy()),
        "score": pa.array(torch.cat([part.scores for part in parts]).float().numpy()),
        "label": pa.array(torch.cat([part.labels for part in parts]).int().numpy()),
        "is_base_box": pa.array(torch.cat([part.is_base_box for part in parts]).byte().numpy()),
    }
    ezsd = {**notes, "image_ids": list(regions_by_image), "offsets": offsets}
    ezsd[_CHECKSUM] = _checksum(ezsd, {name: _values(column) for name, column in columns.items()})
    schema = pa.schema([(name, column.type) for name, column in columns.items()], metadata={"ezsd": json.dumps(ezsd)})
    batch = pa.record_batch(list(columns.values()), schema=schema)
    with (
        written_whole(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as out,
    ):
        out.write_batch(batch)


def read_notes(path: Path) -> dict[str, Any] | None:
    """Return the metadata of a shard (notes, image_ids, offsets), or None if it is missing or cannot be read."""
    try:
        with pa.memory_map(str(path)) as source:
            notes: dict[str, Any] = json.loads(pa.ipc.open_file(source).schema.metadata[b"ezsd"])
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None
    return notes


def is_whole(path: Path) -> bool:
    """Return whether a shard is as it was written; those of older versions have no checksum, so only readable."""
    notes = read_notes(path)
    if notes is None:
        return False
    expected = notes.pop(_CHECKSUM, None)
    try:
        return expected in (None, _checksum(notes, _open_columns(path)))
    except ArtifactError:
        return False


def _checksum(notes: Mapping[str, Any], columns: Mapping[str, np.ndarray[Any, Any]]) -> str:
    total = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name, values in sorted(columns.items()):
        total.update(name.encode())
        total.update(np.ascontiguousarray(values).view(np.uint8).data)
    return total.hexdigest()


def write_index(folder: Path, shards: list[Path], facts: Mapping[str, Any]) -> None:
    """Write ``index.json`` with ``facts`` (teacher fingerprint, names, cost) and the location of each image."""
    entries = []
    for path in shards:
        notes = read_notes(path)
        if notes is None:
            raise ArtifactError(f"{path} cannot be read. {_ADVICE}")
        entries.append({"file": path.name, "bytes": path.stat().st_size,
                        "image_ids": notes["image_ids"], "offsets": notes["offsets"]})  # fmt: skip
    write_checked_json(TargetsFolder(folder).index, {**facts, "shards": entries})


class TargetStore:
    """Regions by image id, read from memory-mapped shards.

    Args:
        folder: The output folder of stage propose.

    Raises:
        ArtifactError: The folder does not contain a complete store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = TargetsFolder(folder).index
        self.facts = read_checked_json(index)
        try:
            shards = self.facts.pop("shards")
            self._rows = {
                image_id: (entry["file"], start, stop)
                for entry in shards
                for image_id, start, stop in zip(
                    entry["image_ids"], entry["offsets"], entry["offsets"][1:], strict=False
                )
            }
            self._sizes = {entry["file"]: (entry["bytes"], entry["offsets"][-1]) for entry in shards}
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{index} is not a target store index ({error}). {_ADVICE}") from None
        self._columns = lru_cache(maxsize=_open_shards())(self._open)

    def __reduce__(self) -> tuple[type[TargetStore], tuple[Path]]:
        return TargetStore, (self.folder,)  # each DataLoader worker maps the shards itself

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._rows

    @property
    def bytes(self) -> int:
        """The total size of the shards in bytes."""
        return sum(size for size, _ in self._sizes.values())

    def __getitem__(self, image_id: int) -> Regions:
        """Return a copy of the regions of an image.

        Raises:
            ArtifactError: The image is not in the store, or its shard cannot be read.
        """
        if image_id not in self._rows:
            raise ArtifactError(f"{self.folder} has no targets for image {image_id}. {_ADVICE}")
        name, start, stop = self._rows[image_id]
        column = {key: torch.from_numpy(values[start:stop].copy()) for key, values in self._columns(name).items()}
        return Regions(column["box"], column["embedding"], column["weight"], column["score"],
                       column["label"].long(), column["is_base_box"].bool())  # fmt: skip

    def novel_scores(self, base_names: int) -> Tensor:
        """Return score times weight [N] of all proposals whose best name is not among the first ``base_names``."""
        found = [torch.zeros(0)]
        for name in self._sizes:
            column = self._open(name)
            novel = (column["is_base_box"] == 0) & (column["label"] > base_names)
            found.append(torch.from_numpy((column["score"] * column["weight"])[novel]))
        return torch.cat(found)

    def damaged(self) -> list[Path]:
        """Read all shards; return those that are missing, or not as the index and their checksums say."""
        return [self.folder / name for name in self._sizes if not self._is_whole(name)]

    def _is_whole(self, name: str) -> bool:
        path, (size, rows) = self.folder / name, self._sizes[name]
        return (
            path.is_file()
            and path.stat().st_size == size
            and is_whole(path)
            and all(len(values) == rows for values in self._open(name).values())
        )

    def _open(self, name: str) -> dict[str, np.ndarray[Any, Any]]:
        return _open_columns(self.folder / name)


def _open_columns(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Map the columns of a shard into memory."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        return {field.name: _values(batch.column(field.name)) for field in batch.schema}
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path} cannot be read: {error}. {_ADVICE}") from None


def _open_shards() -> int:
    """Return how many shards stay open, because opening one takes longer than reading an image from an open one."""
    try:
        import resource
    except ImportError:  # Windows, which opens at most 512 files
        return 256
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_OPEN_SHARDS if files == resource.RLIM_INFINITY else min(files // 2, _MOST_OPEN_SHARDS)


def _list_column(values: Tensor) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.contiguous().view(-1).numpy()), values.shape[1])


def _values(column: pa.Array) -> np.ndarray[Any, Any]:
    if isinstance(column, pa.FixedSizeListArray):
        flat: np.ndarray[Any, Any] = column.flatten().to_numpy()
        return flat.reshape(-1, column.type.list_size)
    plain: np.ndarray[Any, Any] = column.to_numpy()
    return plain
