"""Writing, reading and verifying the target store."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ezsd.data import target_store
from ezsd.data.target_store import Regions, TargetStore, read_notes, write_index, write_shard
from ezsd.errors import ArtifactError


def make_regions(count: int, embedding_dim: int = 8, seed: int = 0) -> Regions:
    numbers = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=numbers) * 50
    return Regions(
        boxes=torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=numbers)], dim=1),
        embeddings=F.normalize(torch.randn(count, embedding_dim, generator=numbers), dim=1).half(),
        weights=torch.rand(count, generator=numbers),
        scores=torch.rand(count, generator=numbers),
        labels=torch.randint(1, 66, (count,), generator=numbers),
        is_base_box=torch.rand(count, generator=numbers) > 0.5,
    )


def make_store(folder: Path, counts: list[int], embedding_dim: int = 8) -> dict[int, Regions]:
    """Write a store with two images per shard and image ids 10, 20, ..."""
    regions = {10 * place: make_regions(count, embedding_dim, place) for place, count in enumerate(counts, start=1)}
    ids = list(regions)
    shards = []
    for number, start in enumerate(range(0, len(ids), 2)):
        shards.append(folder / f"shard-{number:05d}.arrow")
        write_shard(shards[-1], {key: regions[key] for key in ids[start : start + 2]}, {"key": "k"})
    write_index(folder, shards, {"names": ["cat"]})
    return regions


def assert_equal(first: Regions, second: Regions) -> None:
    for name, values in vars(first).items():
        other = getattr(second, name)
        assert values.dtype == other.dtype and torch.equal(values, other), name


def test_regions_are_read_back_exactly(tmp_path: Path) -> None:
    regions = make_store(tmp_path, [5, 0, 3])
    store = TargetStore(tmp_path)
    assert len(store) == 3 and 20 in store and 25 not in store
    for image_id, expected in regions.items():
        assert_equal(expected, store[image_id])
    assert store.facts["names"] == ["cat"]
    assert store.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.arrow"))
    assert store.damaged() == []


def test_changing_returned_regions_does_not_change_the_store(tmp_path: Path) -> None:
    make_store(tmp_path, [2])
    store = TargetStore(tmp_path)
    before = store[10].boxes.clone()
    store[10].boxes.zero_()
    assert torch.equal(store[10].boxes, before)


def test_a_pickled_store_is_small_and_usable(tmp_path: Path) -> None:
    regions = make_store(tmp_path, [2, 4])
    store = TargetStore(tmp_path)
    store[10]  # mapped shards are not pickled
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert_equal(pickle.loads(sent)[20], regions[20])


def test_reading_an_image_takes_less_than_a_millisecond(tmp_path: Path) -> None:
    make_store(tmp_path, [300] * 16, embedding_dim=384)
    store = TargetStore(tmp_path)
    for image_id in range(10, 170, 10):
        store[image_id]
    times = []
    for image_id in range(10, 170, 10):
        began = time.perf_counter()
        store[image_id]
        times.append(time.perf_counter() - began)
    assert sorted(times)[len(times) // 2] < 1e-3


def test_an_embedding_takes_two_bytes_per_value(tmp_path: Path) -> None:
    make_store(tmp_path, [500, 500], embedding_dim=384)
    assert TargetStore(tmp_path).bytes / 1000 < 2 * 384 + 48


def test_notes_are_read_back_and_are_none_for_a_damaged_shard(tmp_path: Path) -> None:
    make_store(tmp_path, [3, 3])
    shard = tmp_path / "shard-00000.arrow"
    notes = read_notes(shard)
    assert notes is not None and notes["key"] == "k" and notes["image_ids"] == [10, 20]
    shard.write_bytes(shard.read_bytes()[:-200])
    assert read_notes(shard) is None
    assert read_notes(tmp_path / "none.arrow") is None


def test_missing_truncated_and_changed_shards_are_damaged(tmp_path: Path) -> None:
    make_store(tmp_path, [3] * 8)
    shards = sorted(tmp_path.glob("*.arrow"))
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-100])
    content = bytearray(shards[2].read_bytes())
    content[-1400:-600] = bytes(800)
    shards[2].write_bytes(content)
    assert TargetStore(tmp_path).damaged() == shards[:3]


@pytest.mark.parametrize("column", ["boxes", "embeddings", "weights", "scores", "labels", "is_base_box"])
def test_one_changed_value_of_a_shard_is_damage(tmp_path: Path, column: str) -> None:
    regions = make_store(tmp_path, [3])
    shard = tmp_path / "shard-00000.arrow"
    stored = {"boxes": torch.float32, "embeddings": torch.float16, "weights": torch.float32, "scores": torch.float32,
              "labels": torch.int32, "is_base_box": torch.uint8}  # fmt: skip
    values = getattr(regions[10], column).to(stored[column]).contiguous().numpy().tobytes()
    content = shard.read_bytes()
    assert content.count(values) == 1
    place = content.index(values)
    shard.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert TargetStore(tmp_path).damaged() == [shard]


def test_shard_of_images_without_regions_is_whole(tmp_path: Path) -> None:
    make_store(tmp_path, [0, 0])
    assert TargetStore(tmp_path).damaged() == []


def test_changed_index_is_found(tmp_path: Path) -> None:
    make_store(tmp_path, [3, 3])
    index = tmp_path / "index.json"
    index.write_text(index.read_text().replace("cat", "cow"))
    with pytest.raises(ArtifactError, match=r"index\.json is damaged"):
        TargetStore(tmp_path)


def test_a_missing_image_and_a_missing_index_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="index.json is missing"):
        TargetStore(tmp_path)
    make_store(tmp_path, [1])
    with pytest.raises(ArtifactError, match="no targets for image 7"):
        TargetStore(tmp_path)[7]
    (tmp_path / "index.json").write_text('{"shards": [{"file": "a"}]}')
    with pytest.raises(ArtifactError, match="not a target store index"):
        TargetStore(tmp_path)


@pytest.mark.parametrize(("files", "expected"), [(256, 128), (1024, 512), (-1, 4096), (10**6, 4096)])
def test_shards_stay_open_up_to_half_of_the_files_of_a_process(
    files: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert target_store._open_shards() == expected
