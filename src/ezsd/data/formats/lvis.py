"""What an LVIS annotation file says beyond boxes: federated rules and category frequencies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ezsd.data.formats.coco import coco_ground_truth
from ezsd.data.formats.coco_json import read_annotations
from ezsd.data.samples import ImageSet

_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class Rules:
    """What the annotation file says beyond boxes; a label is 1 + the index of a name.

    Attributes:
        category_ids: the file's own category id of each name; names that the file lacks follow after its largest id.
        images: LVIS: ``neg_category_ids`` and ``not_exhaustive_category_ids`` by image id, as labels; else empty.
        frequencies: LVIS: "r", "c" or "f" by label; else empty.
    """

    category_ids: tuple[int, ...]
    images: dict[int, dict[str, list[int]]]
    frequencies: dict[int, str]


def read_rules(annotations: Path, names: Sequence[str]) -> Rules:
    """Read category ids and, from LVIS files, what is known to be absent or not exhaustively annotated.

    Raises:
        DataError: the file cannot be read.
    """
    content = read_annotations(annotations)
    ids = {category["name"]: int(category["id"]) for category in content["categories"]}
    following = itertools.count(max(ids.values(), default=0) + 1)
    category_ids = tuple(ids[name] if name in ids else next(following) for name in names)
    labels = {category_id: label for label, category_id in enumerate(category_ids, start=1)}
    frequencies = {
        labels[category["id"]]: str(category["frequency"])
        for category in content["categories"]
        if category["id"] in labels and "frequency" in category
    }
    images = {
        int(image["id"]): {
            key: [labels[category] for category in image.get(key, ()) if category in labels] for key in _FEDERATED
        }
        for image in content["images"]
        if _FEDERATED[0] in image
    }
    return Rules(category_ids, images, frequencies if images else {})


def ground_truth_of(images: ImageSet, rules: Rules) -> dict[str, Any]:
    """Return the evaluator's dictionary; category id = label; LVIS's rules are in it when the file has them."""
    truth = coco_ground_truth(images)
    if rules.images:
        truth["images"] = [{**image, **rules.images.get(image["id"], {})} for image in truth["images"]]
    return truth
