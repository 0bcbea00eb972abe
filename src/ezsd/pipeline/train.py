"""Stage 3: train the detector on base boxes, and distil the teacher's embeddings into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ezsd.data.categories import CategorySplit
from ezsd.data.samples import ImageSet
from ezsd.data.target_store import TargetStore
from ezsd.detector.model_folder import ModelConfig, save_model
from ezsd.detector.rcnn import build_detector
from ezsd.errors import RecipeError
from ezsd.recipe import Recipe, needs_targets
from ezsd.teacher import Teacher, text_embeddings
from ezsd.training.dataset import TrainingDataset
from ezsd.training.loop import OnStep
from ezsd.training.trainer import Job, train_model
from ezsd.utils.environment import versions
from ezsd.utils.files import write_json


def run_train(
    recipe: Recipe,
    split: CategorySplit,
    images: ImageSet,
    targets: Path | None,
    teacher: Teacher,
    norms: Path | None,
    folder: Path,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Train, write ``folder/model``, and go on from the last checkpoint when there is one.

    Args:
        recipe: what to do.
        split: its base names are the vocabulary of training; the recipe may ask to tell background from the novel ones.
        images: the train part, base boxes only.
        targets: folder of stage propose; None when the training needs none.
        teacher: adapted; makes the text embeddings.
        norms: its adapted parameters, copied into the model folder; None when it is raw.
        folder: of the stage: model/, checkpoints/, log.jsonl, metrics.json, and what trackers write.
        on_step: see :func:`ezsd.training.loop.run_loop`.

    Returns:
        what metrics.json holds: steps, photos, seconds, images_per_second.

    Raises:
        RecipeError: the training needs targets or masks that there are not.
        ArtifactError: a checkpoint is of another shape, the loss is not finite, or the disk is full.
    """
    config = recipe.train
    masks = wants_masks(recipe, images)
    if needs_targets(config) and targets is None:
        raise RecipeError("train asks for the teacher's targets, but there are none. Run stage propose first.")
    store = TargetStore(targets) if needs_targets(config) and targets is not None else None
    torch.manual_seed(recipe.seed)
    # Region embeddings meet the names at the scale that the teacher's own do (100 for CLIP).
    model = build_detector(
        recipe.detector, teacher.embedding_dim, masks, recipe.detector.pretrained, teacher.logit_scale
    )
    names = text_embeddings(teacher, split.names, recipe.prompt)
    dataset = TrainingDataset(images, store, teacher.embedding_dim, config, recipe.detector.image_size, masks)
    base, novel = names.split([len(split.base), len(split.novel)])
    inputs = [base, novel] if config.novel_negatives else [base]
    weights = {"loss_distillation": config.distillation_weight}
    job = Job("train", folder, recipe.seed, recipe.data.workers, on_step)
    metrics = train_model(model, dataset, job, inputs, weights)
    if PartialState().is_main_process:
        model_config = ModelConfig(
            detector=recipe.detector,
            embedding_dim=teacher.embedding_dim,
            masks=masks,
            base=split.base,
            novel=split.novel,
            split=split.name,
            setting="strict" if store is None and not config.novel_negatives else "named",
            teacher=recipe.teacher,
            prompt=recipe.prompt,
            versions=versions(),
        )
        save_model(folder / "model", model, model_config, names, norms)
        write_json(folder / "metrics.json", metrics)
    PartialState().wait_for_everyone()
    return metrics


def wants_masks(recipe: Recipe, images: ImageSet) -> bool:
    """Tell whether the detector learns masks of these training photos.

    Raises:
        RecipeError: the recipe asks for masks, and the annotations have none.
    """
    if recipe.detector.masks == "auto":
        return images.has_masks
    if recipe.detector.masks and not images.has_masks:
        raise RecipeError("detector.masks is true, but the train annotations have no segmentations. Set it to auto.")
    return recipe.detector.masks
