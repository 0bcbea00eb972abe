"""Federated evaluation rules and category frequencies of LVIS annotation files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ezsd.data.formats.coco import coco_ground_truth
from ezsd.data.formats.coco_entries import LARGEST_ID, find_labels, image_ids
from ezsd.data.formats.coco_json import key_of, read_annotations
from ezsd.data.samples import ImageSet

_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class Rules:
    """Category ids, federated annotation rules and frequencies. Labels are 1-based indices of names.

    Attributes:
        category_ids: The category id of each name in the file. Names missing from the file get ids after its largest.
            If ids of the file are text or above 2^53, these are labels.
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
    label_of = find_labels(content, names).label_of
    frequencies = {
        label_of[key_of(category["id"])]: str(category["frequency"])
        for category in content.categories
        if label_of.get(key_of(category["id"])) and "frequency" in category
    }
    images = {
        image_id: {
            key: [label_of[category] for category in image.get(key, ()) if label_of.get(category)] for key in _FEDERATED
        }
        for image_id, image in zip(image_ids(content.images), content.images, strict=True)
        if image_id is not None and _FEDERATED[0] in image
    }
    return Rules(_category_ids(label_of, len(names)), images, frequencies if images else {})


def _category_ids(label_of: Mapping[Any, int], names: int) -> tuple[int, ...]:
    """Return the category id of each label; the labels themselves if ids are text or too large for the evaluator."""
    if not all(isinstance(key, int) and 0 <= key <= LARGEST_ID for key in label_of):
        return tuple(range(1, names + 1))
    ids = {label: key for key, label in label_of.items() if label}
    following = itertools.count(max(label_of, default=0) + 1)
    return tuple(ids[label] if label in ids else next(following) for label in range(1, names + 1))


def ground_truth_of(images: ImageSet, rules: Rules) -> dict[str, Any]:
    """Convert images to a COCO dictionary for the evaluator (category id = label), with LVIS rules if available."""
    truth = coco_ground_truth(images)
    if rules.images:
        truth["images"] = [{**image, **rules.images.get(image["id"], {})} for image in truth["images"]]
    return truth
