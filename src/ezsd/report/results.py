"""Read what a run detected in its val images, with the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ezsd.data.formats.coco import load_images
from ezsd.data.formats.lvis import ground_truth_of, read_rules
from ezsd.data.samples import ImageSet
from ezsd.recipe import Recipe
from ezsd.run_folder import RunFolder
from ezsd.utils.files import read_json


@dataclass(frozen=True, eq=False)
class Results:
    """The detections of base and novel names (gzsd) in the val images of a run.

    Attributes:
        images: The val images with the boxes of all names.
        truth: The same as a COCO dictionary with category_id = label, and the rules of LVIS if the data has them.
        detections: COCO results with category_id = label.
    """

    images: ImageSet
    truth: dict[str, Any]
    detections: list[dict[str, Any]]


def read_results(run: RunFolder, recipe: Recipe, names: Sequence[str]) -> Results:
    """Read the results of stage evaluate.

    Args:
        run: A run folder whose stage evaluate is finished.
        recipe: Its recipe.
        names: The base names, then the novel names.

    Raises:
        DataError: The val images or their annotations cannot be read.
    """
    images = load_images(recipe.data.val, names, recipe.data.skip_bad)
    rules = read_rules(recipe.data.val.annotations, names)
    labels = {category: label for label, category in enumerate(rules.category_ids, start=1)}
    found = [{**entry, "category_id": labels[entry["category_id"]]} for entry in read_json(run.detections)]
    return Results(images, ground_truth_of(images, rules), found)
