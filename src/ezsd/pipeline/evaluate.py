"""Stage 4: detect objects in the val images; measure zsd (novel names only) and gzsd (base and novel names)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ezsd.data.categories import CategorySplit
from ezsd.data.formats.lvis import Rules, ground_truth_of, read_rules
from ezsd.data.samples import ImageSet
from ezsd.detector.model_config import THRESHOLDS, ModelConfig
from ezsd.detector.model_folder import CONFIG, MODEL, load_model
from ezsd.detector.rcnn import Rcnn
from ezsd.errors import ArtifactError
from ezsd.evaluation.metrics import coco_metrics, only_images_with
from ezsd.evaluation.summary import (
    ByCategory,
    by_frequency,
    counts_of,
    headline,
    per_category_csv,
)
from ezsd.inference.batching import Query, Spread, detect_in_parts
from ezsd.inference.calibration import ShownObjects, measure_shown, thresholds_json
from ezsd.inference.exact_boxes import measure_exact_boxes
from ezsd.inference.second_opinion import SecondOpinion
from ezsd.pipeline.choices import chosen_config
from ezsd.pipeline.context import RunContext
from ezsd.proposals.base_rpn import load_base_rpn
from ezsd.proposals.proposer import Proposer
from ezsd.proposals.recall import measure_proposals
from ezsd.recipe import needs_targets
from ezsd.run_folder import RunFolder
from ezsd.run_metrics import (
    AdaptMetrics,
    Cost,
    EvaluateMetrics,
    ProposalMetrics,
    ProposeMetrics,
    TeacherMetrics,
    TrainMetrics,
    read_metrics,
    read_metrics_if_exist,
    write_metrics,
)
from ezsd.teacher import Teacher, load_teacher, text_embeddings
from ezsd.teacher.base import with_dense_reading
from ezsd.utils.device import process_state
from ezsd.utils.files import digest, write_json, write_text


def run_evaluate(context: RunContext, images: ImageSet, teacher: Teacher | None) -> EvaluateMetrics:
    """Evaluate the model of a run on the val images. An interrupted evaluation resumes at its unfinished part.

    zsd detects and counts novel names only, on the images that hold a novel object (``zsd``, as in the literature) and
    on all images (``zsd_all_images``); gzsd detects base and novel names together, on all images.
    The stage writes metrics.json, per_category.csv (gzsd), confusion.json, detections.json (gzsd) and
    detections_zsd.json, and thresholds.json in the model folder. Detections are COCO results with the category ids of
    the annotation file.

    Args:
        context: The run.
        images: The val part, loaded with the names of the model (base, then novel).
        teacher: The adapted teacher, to measure the novel recall of proposals. If None, it is not measured.

    Returns:
        The metrics. ``lvis`` is set for LVIS annotations, ``masks`` if the model and the annotations have masks,
        ``lvis_masks`` in both cases, ``exact_boxes`` and ``false_alarms`` if the images have boxes.

    Raises:
        ArtifactError: The model cannot be used, or its names differ from those of ``images``.
        DataError: An image cannot be read.
    """
    folder = context.folder
    model, config, text = load_model(folder.model, context.device)
    if images.names != config.names:
        raise ArtifactError(
            f"{folder.model} was trained with the names of split {config.split}, but the val images were loaded "
            "with other names. Evaluate the model with the split it was trained with, or train again."
        )
    rules = read_rules(context.recipe.data.val.annotations, images.names)
    truth = ground_truth_of(images, rules)
    kinds = ("bbox", "segm") if config.masks and images.has_masks else ("bbox",)
    base, main = len(config.base), process_state().is_main_process
    figures: dict[str, dict[str, ByCategory]] = {kind: {} for kind in kinds}
    shown: ShownObjects | None = None
    for protocol, found, labels in _detections(context, model, text, images, base):
        if not main:
            continue
        for kind in kinds:
            figures[kind][protocol] = coco_metrics(truth, found, labels, kind)
            if protocol == "zsd_all_images":
                figures[kind]["zsd"] = coco_metrics(only_images_with(truth, labels), found, labels, kind)
        if protocol == "gzsd":
            shown = measure_shown(truth, found, images.names, base, context.recipe.evaluate.calibrate_novel)
        path = folder.detections if protocol == "gzsd" else folder.detections_zsd
        _write_detections(path, found, rules.category_ids)
    if shown is not None:
        optional: dict[str, Any] = measure_exact_boxes(model, images, text, base) | _more_figures(figures, rules, base)
        metrics = EvaluateMetrics(
            setting=config.setting,
            split=config.split,
            **headline(**figures["bbox"], base=base),
            proposals=_proposal_recall(context, images, config, teacher),
            **_earlier_stages(folder),
            counts=counts_of(images, base),
            shown=shown.metrics,
            **optional,
        )
        _write_thresholds(context, images, shown, base)
        write_text(folder.per_category, per_category_csv(images, figures["bbox"]["gzsd"], base))
        write_metrics(folder.metrics("evaluate"), metrics)
        shutil.rmtree(folder.parts, ignore_errors=True)
    process_state().wait_for_everyone()
    return read_metrics(folder.metrics("evaluate"), EvaluateMetrics)


def _detections(
    context: RunContext, model: Rcnn, text: Tensor, images: ImageSet, base: int
) -> Iterator[tuple[str, list[dict[str, Any]], range]]:
    """Yield for each protocol its name, its detections (in the main process; else none), and the labels it asks for."""
    folder, recipe = context.folder, context.recipe
    asked = _with_second_opinion(context, model, text, base)
    opinion = recipe.evaluate.model_dump_json(include={"second_opinion", "opinion_powers"})
    ids = [f"{image.image_id} {image.path.name}" for image in images]
    spread = None if context.engine is None else Spread(context.engine, partial(_load_asked, context))
    parts = folder.parts / digest(folder.model / MODEL, folder.model / CONFIG, opinion, *ids)[:16]
    for protocol, first in (("gzsd", 0), ("zsd_all_images", base)):
        labels = range(first + 1, len(images.names) + 1)
        query = Query(text[first:], labels, recipe.evaluate.batch_size)
        yield protocol, detect_in_parts(asked, images.images, query, parts / protocol, spread), labels


def _more_figures(figures: Mapping[str, Mapping[str, ByCategory]], rules: Rules, base: int) -> dict[str, Any]:
    """Return the figures that only some data sets have: those of LVIS, and those of masks."""
    found: dict[str, Any] = {}
    if rules.frequencies:
        for kind, key in zip(figures, ("lvis", "lvis_masks"), strict=False):
            found[key] = by_frequency(figures[kind]["gzsd"], rules.frequencies)
    if "segm" in figures:
        found["masks"] = headline(**figures["segm"], base=base)
    return found


def _write_thresholds(context: RunContext, images: ImageSet, shown: ShownObjects, base: int) -> None:
    """Write the thresholds into the model folder, and the confusion matrix of what is shown with them."""
    about = thresholds_json(shown, len(images), context.recipe.evaluate.second_opinion)
    write_json(context.folder.model / THRESHOLDS, about)
    matrix = {"names": list(images.names), "base": base, "counts": shown.confusion}
    write_json(context.folder.detector_confusion, matrix)


def _load_asked(context: RunContext, device: str) -> Rcnn | SecondOpinion:
    """Load what detects the objects of the val images. Called by actors of an engine."""
    model, config, text = load_model(context.folder.model, device)
    return _with_second_opinion(replace(context, device=device), model, text, len(config.base))


def _with_second_opinion(context: RunContext, model: Rcnn, text: Tensor, base: int) -> Rcnn | SecondOpinion:
    recipe, reading = context.recipe, context.recipe.evaluate.second_opinion
    if reading == "none":
        return model
    config = chosen_config(context)
    loaded = load_teacher(recipe.teacher, context.device, context.norms)
    teacher, powers = with_dense_reading(loaded, config.dense_reading), recipe.evaluate.opinion_powers
    return SecondOpinion(model, teacher, reading, powers, text[:base], config.dense_sides, config.precision)


def _earlier_stages(folder: RunFolder) -> dict[str, Any]:
    """Return the metrics of earlier stages; values of stages that did not run are None."""
    adapt = read_metrics_if_exist(folder.metrics("adapt"), AdaptMetrics)
    propose = read_metrics_if_exist(folder.metrics("propose"), ProposeMetrics)
    train = read_metrics_if_exist(folder.metrics("train"), TrainMetrics)
    return {
        "teacher": TeacherMetrics(**{name: getattr(adapt, name) for name in TeacherMetrics.model_fields}),
        "cost": Cost(
            adapt_s=adapt.seconds,
            propose_s=propose.seconds,
            train_s=train.seconds,
            teacher_crops=propose.crops,
            teacher_dense_passes=propose.dense_passes,
            target_bytes=propose.bytes,
        ),
    }


def _write_detections(path: Path, found: Sequence[Mapping[str, Any]], category_ids: Sequence[int]) -> None:
    lines = (json.dumps({**entry, "category_id": category_ids[entry["category_id"] - 1]}) for entry in found)
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def _proposal_recall(
    context: RunContext, images: ImageSet, model_config: ModelConfig, teacher: Teacher | None
) -> ProposalMetrics:
    recipe, device = context.recipe, context.device
    not_measured = ProposalMetrics(novel_recall_at_100=None, novel_recall_at_300=None)
    if teacher is None or not recipe.evaluate.proposals or not model_config.novel:
        return not_measured
    config, rpn = recipe.propose, None
    is_auto = "auto" in (config.dense_reading, config.size_power)
    if (config.asks_rpn or is_auto) and not needs_targets(recipe.train):
        return not_measured  # stage propose did not run, so it trained no RPN and chose nothing
    config = chosen_config(context)
    teacher = with_dense_reading(teacher, config.dense_reading)
    if config.asks_rpn:
        rpn = load_base_rpn(context.folder.of("propose"), config.shortlist, device)
    split = CategorySplit(model_config.split, model_config.base, model_config.novel)
    text = text_embeddings(teacher, split.names, recipe.prompt)
    proposer = Proposer(teacher, text, len(split.base), config, device, rpn)
    return ProposalMetrics(**measure_proposals(proposer, images, split))
