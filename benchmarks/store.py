"""Size and speed of the target store, against JSON text and one .pth file an image.

    python benchmarks/store.py build/store [--images 1000 10000 100000]

Random regions are written to the folder, which is removed afterwards. JSON has the embeddings as lists of numbers, and
is one file an image, so that one image can be read alone. Both other formats are written for the smallest number of
images only: the time to read one file of an image does not depend on how many there are. Reads are of random images,
the formats in turn, after a few thousand reads, as in a training, with the files in the page cache as far as they fit.
The first read is that of an image whose shard has not been opened yet.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ezsd.data.target_store import Regions, TargetStore, write_index, write_shard
from ezsd.recipe import ProposeConfig
from tables import Row, add_json_option, median_seconds, show

DIM = 512


@dataclass(frozen=True)
class Written:
    """A format with the regions of some images: how to read one image, and what writing them took."""

    images: int
    read: Callable[[int], Any]
    size: int
    seconds: float
    open: Callable[[], TargetStore] | None = None


def make_regions(count: int) -> list[Regions]:
    """Return 64 different sets of random regions, as stage propose writes them."""
    torch.manual_seed(0)
    ones, none = torch.ones(count), torch.zeros(count, dtype=torch.bool)
    low = torch.rand(64, count, 2) * 300
    return [
        Regions(
            torch.cat([low[key], low[key] + 50], dim=1),
            F.normalize(torch.randn(count, DIM), dim=1).half(),
            ones, torch.rand(count), ones.long(), none,
        )
        for key in range(64)
    ]  # fmt: skip


def write_store(folder: Path, images: int, regions: Sequence[Regions]) -> Written:
    """Write shards of the size that recipes have by default."""
    folder.mkdir(parents=True)
    step = ProposeConfig().shard_images
    began = time.perf_counter()
    shards = [folder / f"shard-{number:05d}.arrow" for number in range(-(-images // step))]
    for number, path in enumerate(shards):
        ids = range(number * step, min(images, (number + 1) * step))
        write_shard(path, {key: regions[key % len(regions)] for key in ids}, {})
    write_index(folder, shards, {})
    seconds = time.perf_counter() - began
    return Written(images, TargetStore(folder).__getitem__, size_of(folder), seconds, lambda: TargetStore(folder))


def write_json_text(folder: Path, images: int, regions: Sequence[Regions]) -> Written:
    """Write one JSON file an image; numbers have all digits of a float."""

    def write(key: int, part: Regions) -> None:
        values = {field.name: getattr(part, field.name) for field in fields(part)}
        # As teachers return them: float32, which Python prints with all digits of a double.
        values["embeddings"] = F.normalize(values["embeddings"].float(), dim=1)
        text = json.dumps({name: value.tolist() for name, value in values.items()})
        (folder / f"{key}.json").write_text(text)

    def read(key: int) -> Regions:
        values = json.loads((folder / f"{key}.json").read_text())
        return Regions(*(torch.tensor(values[field.name]) for field in fields(Regions)))

    return write_files(folder, images, regions, write, read)


def write_pth(folder: Path, images: int, regions: Sequence[Regions]) -> Written:
    """Write one file of torch.save an image, with float32 embeddings."""

    def write(key: int, part: Regions) -> None:
        values = {field.name: getattr(part, field.name) for field in fields(part)}
        torch.save(values | {"embeddings": part.embeddings.float()}, folder / f"{key}.pth")

    def read(key: int) -> Regions:
        return Regions(**torch.load(folder / f"{key}.pth", weights_only=True))

    return write_files(folder, images, regions, write, read)


def write_files(
    folder: Path,
    images: int,
    regions: Sequence[Regions],
    write: Callable[[int, Regions], None],
    read: Callable[[int], Regions],
) -> Written:
    """Write one file an image."""
    folder.mkdir(parents=True)
    began = time.perf_counter()
    for key in range(images):
        write(key, regions[key % len(regions)])
    return Written(images, read, size_of(folder), time.perf_counter() - began)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def first_read(store: TargetStore) -> float:
    """Return the median seconds to read an image from a shard that is not open yet."""
    times = []
    for key in range(0, len(store), ProposeConfig().shard_images):
        began = time.perf_counter()
        store[key]
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measured(ways: dict[str, Written], per_image: int, reads: int) -> list[Row]:
    """Read random images in all formats in turn; return one row for each format."""
    numbers = random.Random(0)
    works = {name: lambda way=way: way.read(numbers.randrange(way.images)) for name, way in ways.items()}
    stores = {name: way.open for name, way in ways.items() if way.open is not None}
    opened = median_seconds(stores, 5)
    first = {name: first_read(store()) for name, store in stores.items()}
    for name in stores:
        for _ in range(10 * reads):
            works[name]()
    seconds = median_seconds(works, reads)
    slowest = max(seconds[name] for name in stores)
    return [
        {
            "format": name,
            "images": way.images,
            "bytes a vector": way.size / way.images / per_image,
            "written, MB/s": way.size / 1e6 / way.seconds,
            "opened, ms": 1000 * opened[name] if name in opened else "nothing to open",
            "first read, ms": 1000 * first.get(name, seconds[name]),
            "one image read, ms": 1000 * seconds[name],
            "times as long": seconds[name] / slowest,  # as the slowest of the stores
        }
        for name, way in ways.items()
    ]


def benchmark(folder: Path, counts: Sequence[int], per_image: int, reads: int) -> list[Row]:
    """Write and read all formats; the folder must be new."""
    regions = make_regions(per_image)
    ways = {f"ezsd, {count:,} images": write_store(folder / f"store_{count}", count, regions) for count in counts}
    ways["JSON text"] = write_json_text(folder / "json", min(counts), regions)
    ways[".pth"] = write_pth(folder / "pth", min(counts), regions)
    return measured(ways, per_image, reads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder for the files")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--regions", type=int, default=48, help="regions of each image")
    parser.add_argument("--reads", type=int, default=300)
    add_json_option(parser)
    given = parser.parse_args()
    if given.folder.exists():
        parser.error(f"{given.folder} exists; name a new folder, which is removed afterwards")
    try:
        rows = benchmark(given.folder, given.images, given.regions, given.reads)
    finally:
        shutil.rmtree(given.folder, ignore_errors=True)
    print(f"{given.regions} regions an image, {DIM} dimensions\n")
    show(rows, given.json)


if __name__ == "__main__":
    main()
