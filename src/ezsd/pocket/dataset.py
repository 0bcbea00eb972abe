"""The pocket data set: small scenes of OpenMoji pictograms with boxes and masks in COCO format, built in seconds.

The same law holds in train, val and test, and every scene comes from (seed, part, place) alone. Novel objects appear
in every part; the annotation files hold all boxes, and training does not see those of novel names (``data/coco.py``).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as rle
from numpy.typing import NDArray

from ezsd.data.categories import load_split
from ezsd.errors import ArtifactError, DataError
from ezsd.pocket.pictograms import ATTRIBUTION, draw
from ezsd.pocket.scenes import SIDE, make_scene, scene_law
from ezsd.utils.files import read_json, write_json, write_text
from ezsd.utils.progress import track

SPLIT = "pocket"
PARTS = {"train": 0.7, "val": 0.15, "test": 0.15}
JPEG_QUALITY = 92
_FORMAT = 1  # of the folder; raised when the same law gives other scenes


def make_pocket(out: Path, images: int, seed: int = 0) -> dict[str, Path]:
    """Write the pocket data set; a folder that holds the same set already is left as it is.

    Args:
        out: a folder that is not there, is empty, or holds a pocket data set of the same settings.
        images: scenes of all parts together (70% train, 15% val, 15% test).
        seed: scenes of another seed are other scenes.

    Returns:
        ``images`` (the folder of all parts), ``train``, ``val`` and ``test`` (annotation files).

    Raises:
        DataError: fewer than 20 images.
        ArtifactError: ``out`` holds other things or cannot be written.
        MissingExtraError: the extra ``pocket`` is not installed.
    """
    if images < 20:
        raise DataError(f"pocket: {images} scenes are too few for three parts; ask for 20 or more.")
    settings: dict[str, int | str] = {"format": _FORMAT, "law": scene_law(), "images": images, "seed": seed}
    paths = {"images": out / "images"} | {part: out / f"instances_{part}.json" for part in PARTS}
    if _holds(out, settings):
        return paths
    draw("1F408")  # a missing extra is told before anything is written
    building = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        _write(building, images, seed)
        write_json(building / "pocket.json", settings)
        if out.is_dir():
            out.rmdir()
        building.rename(out)
    except OSError as error:
        raise ArtifactError(f"Cannot write {out}: {error}. Make room, or give another folder.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return paths


def _holds(out: Path, settings: dict[str, int | str]) -> bool:
    """Whether ``out`` is this very data set; refuse what holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    card = out / "pocket.json"
    if card.is_file() and read_json(card) == settings:
        return True
    what = "a pocket data set of other settings or another version" if card.is_file() else "other things"
    raise ArtifactError(f"{out} holds {what}. Give a folder that is not there yet, or remove this one.")


def _write(folder: Path, images: int, seed: int) -> None:
    names = load_split(SPLIT).names
    categories = [{"id": label, "name": name} for label, name in enumerate(names, start=1)]
    counts = {part: round(share * images) for part, share in PARTS.items()}
    counts["train"] += images - sum(counts.values())
    (folder / "images").mkdir(parents=True)
    first = 1
    with track(images, "Pocket scenes") as advance:
        for order, (part, count) in enumerate(counts.items()):
            entries: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for place in range(count):
                image, found = make_scene(np.random.default_rng([seed, order, place]), names)
                file_name = f"{part}_{place:06d}.jpg"
                image.save(folder / "images" / file_name, quality=JPEG_QUALITY)
                entries.append({"id": first + place, "file_name": file_name, "width": SIDE, "height": SIDE})
                for entry in found:
                    about = {"image_id": first + place, "category_id": names.index(entry.name) + 1}
                    annotations.append({"id": len(annotations) + 1, **about, **_outline(entry.mask)})
                advance(1, part)
            first += count
            content = {"info": _info(seed), "images": entries, "annotations": annotations, "categories": categories}
            write_json(folder / f"instances_{part}.json", content)
    write_text(folder / "LICENSE.txt", f"{ATTRIBUTION}\nThe scenes are made from them, and are under the same "
               "license. Pictograms were resized, turned, mirrored, overlapped and toned.\n")  # fmt: skip


def _info(seed: int) -> dict[str, Any]:
    return {"description": f"Pocket: scenes of OpenMoji pictograms, seed {seed}. {ATTRIBUTION}"}


def _outline(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Box, area and mask of an annotation."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    packed = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": [SIDE, SIDE], "counts": packed["counts"].decode("ascii")},
    }
