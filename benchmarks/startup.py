"""Seconds that the command line takes to start, and milliseconds to load cached text embeddings.

    python benchmarks/startup.py recipes/coco2k.yaml

Runs `ezsd --help`, `ezsd detect` of one image (a model of the recipe with random weights, its own names), and, as
references, Python alone, `import torch`, and one pass of the same model in a running process; in turn, each in a new
process. Then loads the embeddings of 1,203 names by the offline teacher from the cache, in one process.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ezsd.inference.detector import Detector
from ezsd.recipe import load_recipe
from ezsd.teacher import Teacher, load_teacher, text_embeddings
from tables import Row, add_json_option, show
from untrained_model import write_untrained_model

PROMPT = "a photo of a {name}"


def process(*arguments: str) -> Callable[[], None]:
    """Return a function that runs Python with arguments."""

    def run() -> None:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)

    return run


def commands(model: Path, image: Path, out: Path) -> dict[str, Callable[[], Any]]:
    """Return what is measured, by name."""
    detector = Detector.load(model, "cpu")
    ezsd = ("-m", "ezsd")
    return {
        "python": process("-c", "pass"),
        "import torch": process("-c", "import torch"),
        "`ezsd --help`": process(*ezsd, "--help"),
        "`ezsd detect` of one image": process(*ezsd, "detect", str(model), str(image), "--out", str(out)),
        "the same in a running process": lambda: detector(image),
    }


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it started, which other work changes less than the time."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def measured(works: dict[str, Callable[[], Any]], rounds: int) -> list[Row]:
    """Run all functions in turn, once before the rounds; return the median time and CPU time of each."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter(), cpu_seconds()
            work()
            times[name].append((time.perf_counter() - began[0], cpu_seconds() - began[1]))
    return [
        {
            "what": name,
            "ms": 1000 * statistics.median(time for time, _ in values[1:]),
            "CPU ms": 1000 * statistics.median(cpu for _, cpu in values[1:]),
        }
        for name, values in times.items()
    ]


def benchmark(model: Path, folder: Path, teacher: Teacher, rounds: int) -> list[Row]:
    """Measure all; files are written to the folder."""
    image = folder / "image.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)).save(image)
    names = [f"name {key}" for key in range(1203)]
    cached = {"cached embeddings of 1,203 names": lambda: text_embeddings(teacher, names, PROMPT)}
    return measured(commands(model, image, folder / "out"), rounds) + measured(cached, 20 * rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--rounds", type=int, default=5)
    add_json_option(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EZSD_CACHE"] = str(Path(folder) / "cache")
        model = write_untrained_model(Path(folder) / "model", load_recipe(given.recipe).detector, 65, 384)
        rows = benchmark(model, Path(folder), load_teacher("offline"), given.rounds)
    show(rows, given.json)


if __name__ == "__main__":
    main()
