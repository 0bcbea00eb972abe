"""Make a small data set in LVIS format, with all 1,203 names, from the images and boxes of a COCO file.

    python benchmarks/make_lvis.py ../shared/data/coco2k/instances_*.json --images images \\
        --categories ../shared/data/text/lvis_v1_categories.json --out runs/lvis2k

It is for tests of everything that LVIS needs: federated rules, both splits, sampling and losses for rare names. It says
nothing about accuracy: four of five boxes get the LVIS name of their COCO name, the others a random one of the 1,203
names, so that names of all frequencies occur. Each image lists eight names as absent, and a fifth of its names as not
annotated exhaustively, at random. Boxes and masks are copied; crowd boxes are left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ezsd.data.formats.coco_json import read_json_file
from ezsd.errors import DataError, EzsdError
from ezsd.utils.files import write_text
from ezsd.utils.log import show_log

RANDOM_NAMES, NOT_EXHAUSTIVE, ABSENT = 0.2, 0.2, 8
logger = logging.getLogger("ezsd.benchmarks")


def main() -> None:
    show_log()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, nargs="+", help="COCO files, one for each part")
    parser.add_argument("--images", default="images", help="name of the image folder, the last part of its path")
    parser.add_argument("--categories", type=Path, required=True, help="the list of categories of LVIS v1, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    try:
        categories = read_categories(given.categories)
        for path in given.annotations:
            made = to_lvis(read_json_file(path), categories, given.images)
            out = given.out / path.name.replace("instances", "lvis")
            write_text(out, json.dumps(made))
            logger.info(f"{out}: {len(made['images'])} images, {len(made['annotations'])} boxes")
    except EzsdError as error:
        parser.exit(2, f"{error}\n")


def read_categories(path: Path) -> list[dict[str, Any]]:
    """Read the categories of LVIS, with id, name, synonyms and frequency.

    Raises:
        DataError: The file is not such a list.
    """
    try:
        found: list[dict[str, Any]] = json.loads(path.read_bytes())
        return [{key: entry[key] for key in ("id", "name", "synonyms", "frequency")} for entry in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}); expected the categories of LVIS v1, a JSON list "
            "of objects with id, name, synonyms and frequency."
        ) from None


def to_lvis(content: Mapping[str, Sequence[Any]], categories: list[dict[str, Any]], folder: str) -> dict[str, Any]:
    """Return a COCO annotation file in LVIS format.

    Args:
        content: Images, annotations and categories in COCO format.
        categories: The categories of LVIS.
        folder: The name of the image folder; ``coco_url`` of an image ends with it and the file name.
    """
    chance, ids = random.Random(0), [entry["id"] for entry in categories]
    names = {name: entry["id"] for entry in categories for name in (*entry["synonyms"], entry["name"])}
    true = {entry["id"]: names.get(entry["name"].replace(" ", "_")) for entry in content["categories"]}
    annotations, present = [], defaultdict(set)
    for entry in content["annotations"]:
        if entry.get("iscrowd"):
            continue
        known = true[entry["category_id"]]
        chosen = chance.choice(ids) if known is None or chance.random() < RANDOM_NAMES else known
        present[entry["image_id"]].add(chosen)
        kept = {key: entry[key] for key in ("image_id", "bbox", "area", "segmentation") if key in entry}
        annotations.append({"id": len(annotations) + 1, "category_id": chosen, **kept})
    images = [
        {
            "id": entry["id"],
            "width": entry["width"],
            "height": entry["height"],
            "coco_url": f"{folder}/{entry['file_name']}",
            "neg_category_ids": sorted({*chance.sample(ids, ABSENT)} - present[entry["id"]]),
            "not_exhaustive_category_ids": [
                category for category in sorted(present[entry["id"]]) if chance.random() < NOT_EXHAUSTIVE
            ],
        }
        for entry in content["images"]
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


if __name__ == "__main__":
    main()
