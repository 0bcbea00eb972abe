"""Make coco2k, the data set of the benchmarks, from the official COCO val2017 images and annotations.

    python benchmarks/make_coco2k.py --val2017 val2017 --annotations annotations/instances_val2017.json

The data set has 1,989 images with a person (listed in coco2k_images.json), long side 384 pixels, in a train and a val
part. Box corners are rounded down to integer pixels of the official image, then scaled and rounded to one decimal.
Masks are removed, and crowd regions become plain boxes (iscrowd is 0). Boxes, areas and ids are the same as in the data
set of the published figures; pixels can differ slightly (JPEG encoder, resize filter).
COCO's annotations are CC BY 4.0. The images have the licenses of their Flickr authors: do not redistribute them.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from ezsd.errors import DataError, EzsdError
from ezsd.utils.files import write_text, written_whole
from ezsd.utils.log import show_log
from ezsd.utils.progress import track

LONG_SIDE = 384
JPEG_QUALITY = 85
HERE = Path(__file__).resolve().parent
logger = logging.getLogger("ezsd.benchmarks")


def main() -> None:
    show_log()
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--val2017", type=Path, required=True, help="folder of COCO's val2017 images")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO's instances_val2017.json")
    parser.add_argument(
        "--out", type=Path, default=HERE.parents[1] / "shared" / "data" / "coco2k", help="folder to write"
    )
    given = parser.parse_args()
    images = json.loads((HERE / "coco2k_images.json").read_text(encoding="utf-8"))
    try:
        make_coco2k(images, given.val2017, given.annotations, given.out)
    except EzsdError as error:
        parser.exit(2, f"{error}\n")


def make_coco2k(images: Mapping[str, Sequence[int]], val2017: Path, annotations: Path, out: Path) -> None:
    """Write ``images/`` and ``instances_PART.json`` for every part into ``out``.

    Args:
        images: The image ids of each part.
        val2017: The folder of the official images.
        annotations: The official annotation file.
        out: The output folder; it must not contain the data set.

    Raises:
        DataError: Inputs are missing or are not the official files, or ``out`` already contains a data set.
    """
    present = [path for part in images if (path := out / f"instances_{part}.json").exists()]
    if present:
        raise DataError(f"{present[0]} already exists. Remove it, or use another --out.")
    content = _official(annotations)
    entries = {entry["id"]: entry for entry in content["images"]}
    absent = [image_id for part in images.values() for image_id in part if image_id not in entries]
    if absent:
        raise DataError(
            f"{annotations} lacks {len(absent)} images of coco2k, for example image id {absent[0]}; "
            "expected the official instances_val2017.json."
        )
    sizes = _write_images([entries[image_id] for part in images.values() for image_id in part], val2017, out)
    rows = small_annotations(content, sizes)
    for part, image_ids in images.items():
        name = out / f"instances_{part}.json"
        kept = sorted(image_ids)
        write_text(name, json.dumps({
            "info": {
                "description": f"COCO val2017 subset, long side {LONG_SIDE} px, {part} part",
                "url": "https://cocodataset.org",
            },
            "licenses": [],
            "categories": content["categories"],
            "images": [
                {"id": key, "file_name": entries[key]["file_name"], "width": sizes[key][0], "height": sizes[key][1]}
                for key in kept
            ],
            "annotations": [row for key in kept for row in rows[key]],
        }))  # fmt: skip
        logger.info(f"{name}: {len(kept)} images, {sum(len(rows[key]) for key in kept)} boxes")


def small_annotations(
    content: Mapping[str, Any], sizes: Mapping[int, tuple[int, int]]
) -> dict[int, list[dict[str, Any]]]:
    """Return the annotations of the images in ``sizes`` (new width and height by image id), scaled to them.

    Annotation ids count from 1 over all images with a person, ordered by image id, including images not in ``sizes``.
    """
    person = next(entry["id"] for entry in content["categories"] if entry["name"] == "person")
    images = {entry["id"]: entry for entry in content["images"]}
    of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in content["annotations"]:
        of_image[entry["image_id"]].append(entry)
    rows: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in sizes}
    number = 0
    for image_id in sorted(of_image):
        if all(entry["category_id"] != person for entry in of_image[image_id]):
            continue
        for entry in of_image[image_id]:
            x1, y1, x2, y2 = integer_corners(entry["bbox"])
            if x2 <= x1 or y2 <= y1:
                continue
            number += 1
            if image_id in sizes:
                image, (width, height) = images[image_id], sizes[image_id]
                across, down = width / image["width"], height / image["height"]
                bbox = [round(x1 * across, 1), round(y1 * down, 1), round((x2 - x1) * across, 1),
                        round((y2 - y1) * down, 1)]  # fmt: skip
                rows[image_id].append(
                    {
                        "id": number,
                        "image_id": image_id,
                        "category_id": entry["category_id"],
                        "bbox": bbox,
                        "area": round(bbox[2] * bbox[3], 1),
                        "iscrowd": 0,
                    }
                )
    return rows


def integer_corners(bbox: Sequence[float]) -> tuple[int, int, int, int]:
    """Convert an xywh box to xyxy, rounded down to integer pixels."""
    x, y, width, height = bbox
    return math.floor(x), math.floor(y), math.floor(x + width), math.floor(y + height)


def small_size(width: int, height: int) -> tuple[int, int]:
    """Return width and height scaled to a long side of 384 pixels; small images are enlarged."""
    scale = LONG_SIDE / max(width, height)
    return round(width * scale), round(height * scale)


def _official(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        content["images"], content["annotations"], content["categories"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}); expected the official instances_val2017.json."
        ) from None
    return content


def _write_images(images: Sequence[Mapping[str, Any]], val2017: Path, out: Path) -> dict[int, tuple[int, int]]:
    """Write the small images; return their width and height by image id."""

    def write(entry: Mapping[str, Any]) -> tuple[int, int]:
        source = val2017 / entry["file_name"]
        try:
            with Image.open(source) as image:
                if image.size != (entry["width"], entry["height"]):
                    raise DataError(f"{source} does not have the size in the annotations; expected the official image.")
                small = image.convert("RGB").resize(small_size(*image.size), Image.Resampling.BICUBIC)
        except OSError as error:
            raise DataError(f"{source} cannot be read ({error}); expected the official val2017 folder.") from None
        with written_whole(out / "images" / entry["file_name"]) as temporary:
            small.save(temporary, format="JPEG", quality=JPEG_QUALITY)
        return small.size

    sizes = {}
    with ThreadPoolExecutor() as pool, track(len(images), "Images") as advance:
        for entry, size in zip(images, pool.map(write, images), strict=True):
            sizes[entry["id"]] = size
            advance(1, "")
    return sizes


if __name__ == "__main__":
    main()
