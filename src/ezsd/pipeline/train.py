"""Stage 3: train the detector on base boxes and distill the teacher's embeddings into it."""

from __future__ import annotations

import torch

from ezsd.data.samples import ImageSet
from ezsd.data.target_store import TargetStore
from ezsd.detector.initial_weights import InitialWeights, read_initial_weights
from ezsd.detector.losses import LongTail
from ezsd.detector.model_config import ModelConfig
from ezsd.detector.model_folder import save_model
from ezsd.detector.rcnn import Rcnn, build_detector
from ezsd.errors import RecipeError
from ezsd.pipeline.choices import chosen_config
from ezsd.pipeline.context import RunContext
from ezsd.pipeline.validation import measure_base, validation_images
from ezsd.recipe import Recipe, TrainConfig, needs_targets
from ezsd.run_metrics import AdaptMetrics, TrainMetrics, read_metrics_if_exist, write_metrics
from ezsd.teacher import Teacher, text_embeddings
from ezsd.training.dataset import DistilledNames, TrainingDataset, least_score
from ezsd.training.loop import OnStep
from ezsd.training.sampler import expected_boxes, repeat_factors
from ezsd.training.trainer import Job, train_model
from ezsd.utils.device import process_state
from ezsd.utils.environment import versions
from ezsd.utils.files import read_tensors


def run_train(
    context: RunContext,
    images: ImageSet,
    teacher: Teacher,
    on_step: OnStep | None = None,
    val: ImageSet | None = None,
) -> TrainMetrics:
    """Train the detector and write its model folder; resume from the last checkpoint if one exists.

    Args:
        context: The run. The base names, and novel names with some boxes, are the vocabulary of the training.
        images: The train part, with boxes of these names only.
        teacher: The adapted teacher, which embeds the names.
        on_step: See :func:`ezsd.training.loop.run_loop`.
        val: The val part; with ``train.validate_steps``, its base boxes choose the best weights. None: no validation.

    Returns:
        The metrics, also written to metrics.json.

    Raises:
        RecipeError: The recipe requires masks, but too few boxes have a segmentation, or validation, but the val
            images have no base boxes.
        ArtifactError: The target store is missing, a checkpoint has other shapes, a loss is not finite, or the disk is
            full.
    """
    recipe, split, config = context.recipe, context.split, context.recipe.train
    masks = wants_masks(recipe, images)
    store = TargetStore(context.folder.of("propose")) if needs_targets(config) else None
    start = read_initial_weights(recipe.detector, recipe.teacher)
    model = _new_model(context, teacher, masks, start)
    model.roi_heads.long_tail = _long_tail(config, images)
    names = text_embeddings(teacher, split.names, recipe.prompt)
    known, novel = names.split([len(split.trained), len(split.names) - len(split.trained)])
    distilled = None
    if store is not None and (config.names_weight or config.pseudo_boxes):
        least = least_score(store.novel_scores(len(split.base)), config.pseudo_boxes * len(images))
        distilled = DistilledNames(names.cpu(), len(split.base), teacher.logit_scale, least)
    dataset = TrainingDataset(
        images, store, teacher.embedding_dim, config, recipe.detector.image_size, masks, distilled
    )
    inputs = [known, novel]
    inputs += [torch.full((len(novel),), used) for used in (config.novel_negatives, config.novel_rivals)]
    weights = {"loss_distillation": config.distillation_weight, "loss_names": config.names_weight}
    measure = None
    if config.validate_steps and val is not None:
        measure = measure_base(context, validation_images(context, val), names[: len(split.base)])
    job = Job("train", context.folder.training, recipe.seed, recipe.data.workers, on_step, measure)
    boxes = sum(int((~image.crowd).sum()) for image in images)
    counts = {"train_images": len(images), "train_boxes": boxes}
    metrics = train_model(model, dataset, job, inputs, weights).model_copy(update=counts)
    if process_state().is_main_process:
        setting = _setting(context)
        model_config = ModelConfig(
            detector=recipe.detector,
            embedding_dim=teacher.embedding_dim,
            masks=masks,
            base=split.base,
            novel=split.novel,
            split=split.name,
            setting=setting if start is None else start.joint_setting(setting, split.novel),
            teacher=recipe.teacher,
            prompt=recipe.prompt,
            dense_sides=recipe.propose.dense_sides,
            dense_reading=chosen_config(context).dense_reading,
            versions=versions(),
        )
        save_model(context.folder.model, model, model_config, names, context.norms)
        write_metrics(context.folder.metrics("train"), metrics)
    process_state().wait_for_everyone()
    return metrics


def _setting(context: RunContext) -> str:
    """Return what this training knew of novel names: strict, named or few_shot."""
    config = context.recipe.train
    if context.split.few_shot:
        return "few_shot"
    adapted = read_metrics_if_exist(context.folder.metrics("adapt"), AdaptMetrics)
    chosen_among_all = adapted.share_table is not None  # the share moves the text embeddings of the base names
    names_are_used = needs_targets(config) or config.novel_negatives or config.novel_rivals or chosen_among_all
    return "named" if names_are_used else "strict"


def _new_model(context: RunContext, teacher: Teacher, masks: bool, start: InitialWeights | None) -> Rcnn:
    """Build the detector with its initial weights: of another detector, or of ImageNet and maybe of the RPN."""
    recipe = context.recipe
    torch.manual_seed(recipe.seed)
    pretrained = recipe.detector.pretrained and start is None
    # The classifier starts with the logit scale of the teacher (100 for CLIP).
    model = build_detector(recipe.detector, teacher.embedding_dim, masks, pretrained, teacher.logit_scale)
    if start is not None:
        start.load_into(model)
    elif recipe.train.from_rpn and recipe.propose.asks_rpn and needs_targets(recipe.train):
        weights_of_rpn, _ = read_tensors(context.folder.targets.rpn)
        model.load_state_dict(weights_of_rpn, strict=False)
    return model


def _long_tail(config: TrainConfig, images: ImageSet) -> LongTail | None:
    if config.class_loss == "softmax":
        return None
    repeats = repeat_factors(images, config.repeat_threshold) if config.repeat_threshold else ()
    return LongTail(config.class_loss, expected_boxes(images, repeats))


def wants_masks(recipe: Recipe, images: ImageSet) -> bool:
    """Return whether the detector learns masks from these train images.

    Raises:
        RecipeError: The recipe requires masks, but too few boxes have a segmentation.
    """
    if recipe.detector.masks == "auto":
        return images.has_masks
    if recipe.detector.masks and not images.has_masks:
        raise RecipeError("detector.masks is true, but fewer than half of the boxes in the train annotations have a "
                          "segmentation that can be read. Set it to auto.")  # fmt: skip
    return recipe.detector.masks
