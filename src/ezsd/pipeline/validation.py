"""The accuracy of a detector in training: AP50 of base names on some val images. Novel boxes are never used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ezsd.data.formats.lvis import ground_truth_of, read_rules
from ezsd.data.samples import ImageSet, with_names
from ezsd.errors import RecipeError
from ezsd.evaluation.metrics import coco_metrics, mean_figures
from ezsd.inference.batching import detect_annotated
from ezsd.pipeline.context import RunContext
from ezsd.utils.device import share_of_process
from ezsd.utils.seeding import seeded

_KEY = 97  # keeps the choice of images apart from other random numbers of the run
_PART_IMAGES = 32  # images in memory at once


def validation_images(context: RunContext, val: ImageSet) -> ImageSet:
    """Choose ``train.validate_images`` val images that have base boxes; return them with base boxes only.

    Raises:
        RecipeError: No val image has a base box.
    """
    base, recipe = context.split.base, context.recipe
    known = [image for each in val if len((image := with_names(each, val.names, base)).boxes)]
    if not known:
        raise RecipeError("train.validate_steps needs base boxes in the val images, which have none. Set it to 0.")
    order = torch.randperm(len(known), generator=seeded(recipe.seed, _KEY)).tolist()
    chosen = sorted(order[: recipe.train.validate_images])
    return ImageSet([known[place] for place in chosen], base, has_masks=False)


def measure_base(context: RunContext, images: ImageSet, text: Tensor) -> Callable[[Any], float]:
    """Return a function that measures the AP50 (0..100) of base names of a detector in evaluation mode.

    Args:
        context: The run.
        images: The images of :func:`validation_images`.
        text: [C, D], the text embeddings of the base names.
    """
    truth = ground_truth_of(images, read_rules(context.recipe.data.val.annotations, images.names))
    labels, size = range(1, len(images.names) + 1), context.recipe.evaluate.batch_size
    own = share_of_process(images.images)

    def measure(model: Any) -> float:
        found = []
        for start in range(0, len(own), _PART_IMAGES):
            found += detect_annotated(model, own[start : start + _PART_IMAGES], text, labels, size)
        figures = coco_metrics(truth, gather_object(found), labels)
        return mean_figures(figures.values()).ap50 or 0.0

    return measure
