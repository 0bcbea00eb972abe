"""Time and memory of ``ezsd validate`` on a generated data set of the size of COCO train2017.

    python benchmarks/large_annotations.py build/large

118,287 images (hard links to one small JPEG) and 860,001 boxes with polygons are written to the folder, and validated.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import yaml
from PIL import Image

IMAGES, BOXES, POINTS = 118_287, 860_001, 25
_LINKS = 30_000  # hard links to one file; file systems limit them


def make(folder: Path, images: int = IMAGES, boxes: int = BOXES) -> Path:
    """Write the data set and a recipe; return the recipe."""
    numbers = random.Random(0)
    (folder / "images").mkdir(parents=True)
    names = [f"{place:012d}.jpg" for place in range(images)]
    pixels = Image.effect_noise((640, 480), 60).convert("RGB")
    for place, name in enumerate(names):
        if place % _LINKS == 0:
            first = folder / "images" / name
            pixels.save(first, quality=80)
        else:
            os.link(first, folder / "images" / name)
    content = {
        "images": [{"id": place, "file_name": name, "width": 640, "height": 480} for place, name in enumerate(names)],
        "categories": [{"id": key, "name": f"name {key}"} for key in range(80)],
        "annotations": [_annotation(key, images, numbers) for key in range(boxes)],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    part = {"images": str(folder / "images"), "annotations": str(folder / "boxes.json")}
    split = {"base": [f"name {key}" for key in range(60)], "novel": [f"name {key}" for key in range(60, 80)]}
    values = {"split": split, "teacher": "offline", "data": {"train": part, "val": {**part, "limit": 100}}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


def _annotation(key: int, images: int, numbers: random.Random) -> dict[str, object]:
    width, height = round(numbers.uniform(5, 200), 2), round(numbers.uniform(5, 200), 2)
    x, y = round(numbers.uniform(0, 640 - width), 2), round(numbers.uniform(0, 480 - height), 2)
    polygon = [round(value, 2) for _ in range(POINTS) for value in (x + numbers.random() * width, y + numbers.random())]
    return {
        "id": key, "image_id": numbers.randrange(images), "category_id": numbers.randrange(80), "iscrowd": 0,
        "bbox": [x, y, width, height], "area": round(width * height / 2, 2), "segmentation": [polygon],
    }  # fmt: skip


def main() -> None:
    """Make the data set if the folder is new, validate it, and print time and memory."""
    folder = Path(sys.argv[1])
    recipe = folder / "recipe.yaml"
    if "--make" in sys.argv:
        make(folder)
        return
    if not recipe.is_file():  # in a process of its own, whose memory does not count
        subprocess.run([sys.executable, *sys.argv, "--make"], check=True)
    print(f"boxes.json: {(folder / 'boxes.json').stat().st_size / 1e6:.0f} MB")
    from ezsd.commands.validate import check_recipe

    began = time.monotonic()
    print(check_recipe(recipe))
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"validated in {time.monotonic() - began:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of CPU time), "
        f"at most {used.ru_maxrss / 2**20:.2f} GiB of memory"
    )


if __name__ == "__main__":
    main()
