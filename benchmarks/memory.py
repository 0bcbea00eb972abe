"""Memory of the stages while they go through many images.

    python benchmarks/memory.py build/memory --images 10000

Generates small images with boxes, runs adapt, propose and train (one epoch) on them, and samples the memory of the
process and of those that it started every second. Prints it at tenths of the time of propose and train, and writes
memory.svg: memory that grows with the images would be a line that rises until the end.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import yaml
from PIL import Image

from ezsd.report.charts import ceiling
from ezsd.run_folder import RunFolder, Stage
from ezsd.utils.files import write_text
from tables import Row, add_json_option, show

_STAGES: tuple[Stage, ...] = ("propose", "train")
_COLORS = {"propose": "#1f77b4", "train": "#d62728"}
_SIZE = (192, 128)
_MB = 1e6

Sample = tuple[float, float]  # seconds since the start of the stage, megabytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    add_json_option(parser)
    given = parser.parse_args()
    recipe = make(given.folder / "data", given.images)
    samples = measure(recipe, RunFolder(given.folder / "run"))
    show([row for stage, curve in samples.items() for row in rows(stage, curve)], given.json)
    write_text(given.folder / "memory.svg", plot(samples))


def make(folder: Path, images: int) -> Path:
    """Write images of noise with rectangles, their boxes, and a recipe; return the recipe."""
    numbers = random.Random(0)
    (folder / "images").mkdir(parents=True)
    annotations = []
    for key in range(images):
        pixels = Image.effect_noise(_SIZE, 40).convert("RGB")
        for name in range(3):
            box = [numbers.randrange(0, 128), numbers.randrange(0, 64), 48, 48]
            pixels.paste((80 * name, 255 - 80 * name, 120), (box[0], box[1], box[0] + 48, box[1] + 48))
            annotations.append({
                "id": len(annotations), "image_id": key, "category_id": name, "iscrowd": 0, "bbox": box, "area": 2304,
            })  # fmt: skip
        pixels.save(folder / "images" / f"{key:06d}.jpg")
    content = {
        "images": [
            {"id": key, "file_name": f"{key:06d}.jpg", "width": _SIZE[0], "height": _SIZE[1]} for key in range(images)
        ],
        "categories": [{"id": key, "name": name} for key, name in enumerate(("cup", "box", "lamp"))],
        "annotations": annotations,
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    part = {"images": str(folder / "images"), "annotations": str(folder / "boxes.json")}
    values = {
        "split": {"base": ["cup", "box"], "novel": ["lamp"]}, "teacher": "offline",
        "data": {"train": part, "val": {**part, "limit": 50}},
        "adapt": {"enabled": False},
        "propose": {"image_size": [128, 192], "stride": 32, "sides": [48, 96], "dense_sides": [192], "keep": 8,
                    "crop_rank": 0.0},
        "detector": {"backbone": "tf_efficientnet_lite0", "image_size": [96, 144], "fpn_channels": 32,
                     "anchor_sides": [16, 32, 64, 128], "rpn_proposals": 32, "head_convs": 1, "head_channels": 32,
                     "head_features": 64, "rois_per_image": 16},
        "train": {"epochs": 1, "batch_size": 8, "optimizer": "adamw", "lr": 1.0e-4, "names_weight": 1.0},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


def measure(recipe: Path, run: RunFolder) -> dict[Stage, list[Sample]]:
    """Run a recipe until train; return the samples of each stage."""
    command = [sys.executable, "-m", "ezsd", "run", str(recipe), "--out", str(run.path), "--until", "train"]
    samples: dict[Stage, list[Sample]] = {stage: [] for stage in _STAGES}
    process = subprocess.Popen(command)
    while process.poll() is None:
        time.sleep(1)
        for stage in _STAGES:
            if run.inputs(stage).exists() and not run.done(stage).exists():
                samples[stage].append((time.time() - run.inputs(stage).stat().st_mtime, megabytes(process.pid)))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return samples


def megabytes(pid: int) -> float:
    """Return the memory of a process and of those that it started; pages that several use are counted once."""
    total = 0.0
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_full_info().pss / _MB
    return total


def rows(stage: Stage, samples: Sequence[Sample]) -> list[Row]:
    """Return the memory at tenths of a stage, and its maximum until then."""
    found: list[Row] = []
    for tenth in range(1, 11):
        until = samples[: max(len(samples) * tenth // 10, 1)]
        found.append({
            "stage": stage, "part": f"{tenth}/10", "seconds": until[-1][0], "MB": until[-1][1],
            "most until then, MB": max(size for _, size in until),
        })  # fmt: skip
    return found


def plot(samples: dict[Stage, list[Sample]]) -> str:
    """Return an SVG with the memory of each stage over its time."""
    width, height, x0, y0 = 340, 200, 60, 230
    top = ceiling(size for curve in samples.values() for _, size in curve)
    parts = ['<rect width="840" height="280" fill="#ffffff"/>']
    for at, (stage, curve) in enumerate(samples.items()):
        left, end = x0 + 400 * at, curve[-1][0]
        points = " ".join(f"{left + x / end * width:.1f},{y0 - y / top * height:.1f}" for x, y in curve)
        for part in (0, 0.5, 1):
            y = y0 - part * height
            parts.append(f'<path d="M{left} {y}H{left + width}" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{part * top:,.0f}</text>')
            parts.append(f'<text x="{left + part * width}" y="{y0 + 16}" text-anchor="middle">{part * end:,.0f}</text>')
        parts.append(f'<polyline points="{points}" fill="none" stroke="{_COLORS[stage]}" stroke-width="1.5"/>')
        parts.append(f'<text x="{left}" y="18">{stage}: MB</text>')
        parts.append(f'<text x="{left + width / 2}" y="{y0 + 34}" text-anchor="middle">seconds</text>')
    return "\n".join([
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 280" font-family="sans-serif" font-size="12" '
        'role="img" aria-label="Memory of the stages over time">', *parts, "</svg>",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
