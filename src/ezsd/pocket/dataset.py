"""The pocket data set: small scenes of OpenMoji pictograms with boxes and masks in COCO format, built in seconds.

Scenes of train, val and test are drawn from the same distribution, and each scene depends on (seed, part, index) only.
Novel objects appear in every part. The annotation files contain all boxes; training filters out the boxes of novel
names (``data/formats/coco.py``).
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
_FORMAT = 1  # version of the folder; increased when the same settings give different scenes


def make_pocket(out: Path, images: int, seed: int = 0) -> dict[str, Path]:
    """Write the pocket data set. A folder that already contains the same data set is not changed.

    Args:
        out: The folder to write. It must not exist, be empty, or contain a pocket data set with the same settings.
        images: The number of scenes in all parts together (70% train, 15% val, 15% test).
        seed: The seed of the scenes; different seeds give different scenes.

    Returns:
        The paths ``images`` (the image folder of all parts), ``train``, ``val`` and ``test`` (annotation files).

    Raises:
        DataError: ``images`` is less than 20.
        ArtifactError: ``out`` contains other files or cannot be written.
        MissingExtraError: The extra ``pocket`` is not installed.
    """
    if images < 20:
        raise DataError(f"pocket: {images} scenes are too few for three parts. Use at least 20.")
    settings: dict[str, int | str] = {"format": _FORMAT, "law": scene_law(), "images": images, "seed": seed}
    paths = {"images": out / "images"} | {part: out / f"instances_{part}.json" for part in PARTS}
    if _holds(out, settings):
        return paths
    draw("1F408")  # raises if the extra is missing, before anything is written
    building = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        _write(building, images, seed)
        write_json(building / "pocket.json", settings)
        if out.is_dir():
            out.rmdir()
        building.rename(out)
    except OSError as error:
        raise ArtifactError(f"Cannot write {out}: {error}. Free some disk space, or use another folder.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return paths


def _holds(out: Path, settings: dict[str, int | str]) -> bool:
    """Return whether ``out`` is this data set; raise ArtifactError if it contains anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    card = out / "pocket.json"
    if card.is_file() and read_json(card) == settings:
        return True
    what = "a pocket data set with other settings or of another version" if card.is_file() else "other files"
    raise ArtifactError(f"{out} contains {what}. Use a new folder, or remove this one.")


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
    """Return the box, area and mask of an annotation as COCO fields."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    packed = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": [SIDE, SIDE], "counts": packed["counts"].decode("ascii")},
    }
