"""Stage 4: detect in the val photos and measure zsd (novel names alone) and gzsd (base and novel names together)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console

from ezsd.data.categories import CategorySplit
from ezsd.data.formats.lvis import ground_truth_of, read_rules
from ezsd.data.samples import ImageSet
from ezsd.detector.model_folder import CONFIG, MODEL, ModelConfig, load_model
from ezsd.errors import ArtifactError
from ezsd.evaluation.metrics import coco_metrics
from ezsd.evaluation.summary import (
    ByCategory,
    by_frequency,
    counts_of,
    headline,
    per_category_csv,
    summary,
)
from ezsd.inference.batching import detect_in_parts
from ezsd.proposals.base_rpn import load_base_rpn
from ezsd.proposals.recall import measure_proposals
from ezsd.recipe import Recipe, needs_targets
from ezsd.teacher import Teacher
from ezsd.utils.files import digest, read_json, write_json, write_text

_COST = {  # metrics.json's cost: stage and key it comes from
    "adapt_s": ("adapt", "seconds"),
    "propose_s": ("targets", "seconds"),
    "train_s": ("train", "seconds"),
    "teacher_crops": ("targets", "crops"),
    "teacher_dense_passes": ("targets", "dense_passes"),
    "target_bytes": ("targets", "bytes"),
}
_RECALL = ("novel_recall_at_100", "novel_recall_at_300")


_ACCURACY = ("accuracy_base_before", "accuracy_base_after", "accuracy_novel_before", "accuracy_novel_after")


def run_evaluate(
    recipe: Recipe, images: ImageSet, teacher: Teacher | None, run_folder: Path, device: str
) -> dict[str, Any]:
    """Evaluate the model of a run on the val photos; a killed run goes on from the last part it detected.

    zsd asks for the novel names alone and counts novel boxes alone; gzsd asks for base and novel names together. Both
    look at every val photo. Writes ``evaluate/``: metrics.json, per_category.csv (gzsd), and in COCO's results form,
    with the annotation file's own category ids, detections.json (gzsd) and detections_zsd.json.

    Args:
        recipe: data.val.annotations, evaluate, propose and prompt are used.
        images: the val part, read for the model's names (base, then novel).
        teacher: adapted; measures the novel recall of CLIP proposals. None = not measured.
        run_folder: holds train/model; metrics.json of adapt/, targets/ and train/ tell the cost.
        device: where the detector runs.

    Returns:
        what metrics.json holds. AP in 0..100, None = not measured. Beside the keys of every run: "lvis" (ap, ap_r,
        ap_c, ap_f of gzsd) for LVIS annotations, "masks" (gzsd, zsd) when model and annotations have masks.

    Raises:
        ArtifactError: the model cannot be used, or has other names than ``photos``.
        DataError: a photo cannot be read.
    """
    folder, model_folder = run_folder / "evaluate", run_folder / "train" / "model"
    model, model_config, text = load_model(model_folder, device)
    if images.names != model_config.names:
        raise ArtifactError(
            f"{model_folder} was trained for the names of split {model_config.split}, the val images were read for "
            "others. "
            "Evaluate it with the split it was trained with, or train again."
        )
    rules = read_rules(recipe.data.val.annotations, images.names)
    truth = ground_truth_of(images, rules)
    kinds = ("bbox", "segm") if model_config.masks and images.has_masks else ("bbox",)
    ids = [f"{image.image_id} {image.path.name}" for image in images]
    parts = folder / "parts" / digest(model_folder / MODEL, model_folder / CONFIG, *ids)[:16]
    base, main = len(model_config.base), PartialState().is_main_process
    figures: dict[str, dict[str, ByCategory]] = {kind: {} for kind in kinds}
    for protocol, file, first in (("gzsd", "detections.json", 0), ("zsd", "detections_zsd.json", base)):
        labels = range(first + 1, len(images.names) + 1)
        found = detect_in_parts(
            model, images.images, text[first:], labels, recipe.evaluate.batch_size, parts / protocol
        )
        if main:
            for kind in kinds:
                figures[kind][protocol] = coco_metrics(truth, found, labels, kind)
            _write_detections(folder / file, found, rules.category_ids)
    if main:
        metrics = {
            "setting": model_config.setting,
            "split": model_config.split,
            **headline(**figures["bbox"], base=base),
            "proposals": _proposal_recall(recipe, images, model_config, teacher, run_folder / "targets", device),
            **_measured_by_stages(run_folder, counts_of(images, base)),
            **({"lvis": by_frequency(figures["bbox"]["gzsd"], rules.frequencies)} if rules.frequencies else {}),
            **({"masks": headline(**figures["segm"], base=base)} if "segm" in kinds else {}),
        }
        write_text(folder / "per_category.csv", per_category_csv(images, figures["bbox"]["gzsd"], base))
        write_json(folder / "metrics.json", _rounded(metrics))
        shutil.rmtree(folder / "parts", ignore_errors=True)
        Console(highlight=False).print(summary(metrics))
    PartialState().wait_for_everyone()
    result: dict[str, Any] = read_json(folder / "metrics.json")
    return result


def _measured_by_stages(run_folder: Path, counts: Mapping[str, int]) -> dict[str, Any]:
    """Gather what earlier stages measured; None where a stage did not run."""
    paths = {stage: run_folder / stage / "metrics.json" for stage in ("adapt", "targets", "train")}
    stage_metrics = {stage: read_json(path) if path.exists() else {} for stage, path in paths.items()}
    return {
        "teacher": {key: stage_metrics["adapt"].get(key) for key in _ACCURACY},
        "counts": dict(counts),
        "cost": {key: stage_metrics[stage].get(entry) for key, (stage, entry) in _COST.items()},
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _write_detections(path: Path, found: Sequence[Mapping[str, Any]], category_ids: Sequence[int]) -> None:
    lines = (json.dumps({**entry, "category_id": category_ids[entry["category_id"] - 1]}) for entry in found)
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def _proposal_recall(
    recipe: Recipe, images: ImageSet, model_config: ModelConfig, teacher: Teacher | None, targets: Path, device: str
) -> dict[str, float | None]:
    if teacher is None or not recipe.evaluate.proposals or not model_config.novel:
        return dict.fromkeys(_RECALL)
    config, rpn = recipe.propose, None
    if config.asks_rpn:
        if not needs_targets(recipe.train):  # then no RPN was trained
            return dict.fromkeys(_RECALL)
        rpn = load_base_rpn(targets, config.shortlist, device)
    split = CategorySplit(model_config.split, model_config.base, model_config.novel)
    measured = measure_proposals(teacher, images, split, config, recipe.prompt, device, rpn=rpn)
    return {key: measured[key] for key in _RECALL}
