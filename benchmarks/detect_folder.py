"""Images per second of `ezsd detect` on a folder, against a loop that calls the detector with one path after the other.

    python benchmarks/detect_folder.py MODEL FOLDER [--images 100]
    python benchmarks/detect_folder.py MODEL FOLDER --other ../old/src --threshold 0.5

Both read the images, detect, and write the drawn ones. They take turns, in parts of the images, so that other work on
the machine slows them down alike. Prints images/s and the ratio to the loop, for `ezsd detect` in fp32 and in bf16.

With --other, the commands of this and of another version of ezsd are compared, in processes of their own. Their start
does not count: it is the time for few images. The other version must be able to read the model.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import ezsd
from ezsd.commands.detect import detect_source
from ezsd.data.formats.image_files import image_files
from ezsd.inference.detector import Detector
from ezsd.inference.drawing import draw
from ezsd.inference.sources import open_source

_PARTS = 4
_ROUNDS = 3
_FEW = 8  # images whose time is that of the start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--other", type=Path, metavar="SRC", help="the folder src of another version of ezsd")
    parser.add_argument("--threshold", default="0.3", help="with --other, that of both")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    images = image_files(given.folder)[: given.images]
    if given.other is not None:
        print(table(versions(given.other, (given.model, "--threshold", given.threshold), images)))
        return
    plain, half = Detector.load(given.model), Detector.load(given.model, precision="bf16")
    ways: dict[str, Callable[[Sequence[Path], Path], None]] = {
        "a loop over paths": lambda part, out: loop(plain, part, out),
        "ezsd detect": lambda part, out: command(plain, part, out),
        "ezsd detect --precision bf16": lambda part, out: command(half, part, out),
    }
    seconds: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        for way in ways.values():
            way(images[:4], Path(folder))  # warm up
        for part in range(_PARTS):
            for name, way in ways.items():
                started = time.perf_counter()
                way(images[part::_PARTS], Path(folder))
                seconds[name] += time.perf_counter() - started
    print(table({name: len(images) / total for name, total in seconds.items()}))


def loop(detector: Detector, images: Sequence[Path], out: Path) -> None:
    """Detect in one image after the other, as a user's first script does."""
    for path in images:
        draw(path, detector(path)).save(out / f"{path.stem}.jpg")


def command(detector: Detector, images: Sequence[Path], out: Path) -> None:
    """Detect as the command does."""
    source = open_source(list(images))
    detect_source(detector.stream(source), source, drawn=out)


def versions(other: Path, options: Sequence[str], images: Sequence[Path]) -> dict[str, float]:
    """Return the images/s of ``ezsd detect`` of another version and of this one; the best of several rounds."""
    sources = {"ezsd detect, other version": other, "ezsd detect": Path(ezsd.__file__).parents[1]}
    few, most = images[:_FEW], len(images) - _FEW
    seconds: dict[tuple[str, int], float] = {}
    for _ in range(_ROUNDS):
        for name, source in sources.items():
            for part in (few, images):
                key = name, len(part)
                seconds[key] = min(seconds.get(key, math.inf), _process(source, options, part))
    return {name: most / (seconds[name, len(images)] - seconds[name, _FEW]) for name in sources}


def _process(source: Path, options: Sequence[str], images: Sequence[Path]) -> float:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "ezsd", "detect", *options, *map(str, images), "--out", out]
        began = time.perf_counter()
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(source)}, check=True, capture_output=True)
        return time.perf_counter() - began


def table(rates: dict[str, float]) -> str:
    """Return images/s and the ratio to the first row as a Markdown table."""
    first = next(iter(rates.values()))
    rows = [f"| {name} | {rate:.2f} | {rate / first:.2f} |" for name, rate in rates.items()]
    return "\n".join(["| way | images/s | ratio |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    main()
