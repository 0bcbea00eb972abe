"""Federated evaluation rules and category frequencies of LVIS annotation files."""

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
    """Category ids, federated annotation rules and frequencies. Labels are 1-based indices of names.

    Attributes:
        category_ids: The category id of each name in the file. Names missing from the file get ids after its largest.
        images: ``neg_category_ids`` and ``not_exhaustive_category_ids`` by image id, as labels. Empty unless LVIS.
        frequencies: "r", "c" or "f" by label. Empty unless LVIS.
    """

    category_ids: tuple[int, ...]
    images: dict[int, dict[str, list[int]]]
    frequencies: dict[int, str]


def read_rules(annotations: Path, names: Sequence[str]) -> Rules:
    """Read category ids and, from LVIS files, the categories that are absent or not exhaustively annotated.

    Raises:
        DataError: The file cannot be read.
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
    """Convert images to a COCO dictionary for the evaluator (category id = label), with LVIS rules if available."""
    truth = coco_ground_truth(images)
    if rules.images:
        truth["images"] = [{**image, **rules.images.get(image["id"], {})} for image in truth["images"]]
    return truth
