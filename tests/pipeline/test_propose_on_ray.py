from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ezsd.data.target_store import TargetStore, read_notes
from ezsd.pipeline.run import run_recipe, run_stage
from ezsd.recipe import parse_recipe
from ezsd.utils.ray_engine import RayEngine
from tiny import make_tiny_coco
from tiny_teacher import MortalTeacher, tiny_values


@pytest.mark.slow
def test_actors_make_the_same_shards_also_when_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: Path
) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    coco = make_tiny_coco(tmp_path / "data")
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    values["teacher"] = MortalTeacher.name
    values["propose"] |= {"objectness": 1.0, "rpn_epochs": 1.0}
    local, ray = tmp_path / "local", tmp_path / "ray"
    run_recipe(parse_recipe(values, "test"), local, until="propose")
    shutil.copytree(local, ray)
    for name in ("shard-00000.arrow", "shard-00001.arrow", "shard-00003.arrow", "index.json", "done.json"):
        (ray / "targets" / name).unlink()
    kept = (ray / "targets/shard-00002.arrow").stat().st_mtime_ns
    local_ray.touch()

    run_stage(ray, "propose", engine=RayEngine(actors=2))

    assert not local_ray.exists(), "no actor was killed"
    assert (ray / "targets/shard-00002.arrow").stat().st_mtime_ns == kept
    assert TargetStore(ray / "targets").damaged() == []
    names = sorted(path.name for path in (local / "targets").glob("shard-*.arrow"))
    assert len(names) == 4 and sorted(path.name for path in (ray / "targets").glob("shard-*.arrow")) == names
    for name in names:
        assert _content(ray / "targets" / name) == _content(local / "targets" / name)
    indices = [
        json.loads((folder / "targets/index.json").read_text(), object_hook=_timeless) for folder in (local, ray)
    ]
    assert indices[0] == indices[1]


def _content(path: Path) -> tuple[bytes, Any]:
    """Return the bytes of the columns, and the notes without seconds."""
    with pa.memory_map(os.fspath(path)) as source:
        columns = pa.ipc.open_file(source).get_batch(0).serialize().to_pybytes()
    return columns, _timeless(read_notes(path))


def _timeless(values: Any) -> Any:
    """Leave out what is measured: seconds, and what depends on their text, the bytes and checksum of a shard."""
    if isinstance(values, list):
        return [_timeless(value) for value in values]
    if not isinstance(values, dict):
        return values
    return {
        key: _timeless(value)
        for key, value in values.items()
        if key not in ("seconds", "rpn_seconds", "bytes", "sha256")
    }
