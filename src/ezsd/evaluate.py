"""Stage 4: detect in the val photos and measure zsd (novel names alone) and gzsd (base and novel names together)."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console, Group
from rich.table import Table

from ezsd.base_rpn import load_base_rpn
from ezsd.data.annotations import read_annotations
from ezsd.data.categories import CategorySplit
from ezsd.data.coco import Photos, coco_ground_truth
from ezsd.detector.model_folder import CONFIG, MODEL, ModelConfig, load_model
from ezsd.errors import ArtifactError
from ezsd.files import digest, read_json, write_json, write_text
from ezsd.inference import detect_in_parts
from ezsd.metrics import Figures, coco_metrics, harmonic_mean, mean_figures
from ezsd.recall import measure_proposals
from ezsd.recipe import Recipe
from ezsd.teacher import Teacher
from ezsd.train_data import needs_targets

_COST = {  # metrics.json's cost: stage and key it comes from
    "adapt_s": ("adapt", "seconds"),
    "propose_s": ("targets", "seconds"),
    "train_s": ("train", "seconds"),
    "teacher_crops": ("targets", "crops"),
    "teacher_dense_passes": ("targets", "dense_passes"),
    "target_bytes": ("targets", "bytes"),
}
_RECALL = ("novel_recall_at_100", "novel_recall_at_300")
_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
_ACCURACY = ("accuracy_base_before", "accuracy_base_after", "accuracy_novel_before", "accuracy_novel_after")
SETTINGS = {
    "strict": " (novel names unknown while training)",
    "named": " (novel names known while training, no boxes)",
    "open": " (other data)",
}

ByCategory = dict[int, Figures]


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


def run_evaluate(
    recipe: Recipe, photos: Photos, teacher: Teacher | None, run_folder: Path, device: str
) -> dict[str, Any]:
    """Evaluate the model of a run on the val photos; a killed run goes on from the last part it detected.

    zsd asks for the novel names alone and counts novel boxes alone; gzsd asks for base and novel names together. Both
    look at every val photo. Writes ``evaluate/``: metrics.json, per_category.csv (gzsd), and in COCO's results form,
    with the annotation file's own category ids, detections.json (gzsd) and detections_zsd.json.

    Args:
        recipe: data.val.annotations, evaluate, propose and prompt are used.
        photos: the val part, read for the model's names (base, then novel).
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
    model, config, text = load_model(model_folder, device)
    if photos.names != config.names:
        raise ArtifactError(
            f"{model_folder} was trained for the names of split {config.split}, the val photos were read for others. "
            "Evaluate it with the split it was trained with, or train again."
        )
    rules = read_rules(recipe.data.val.annotations, photos.names)
    truth = ground_truth_of(photos, rules)
    kinds = ("bbox", "segm") if config.masks and photos.has_masks else ("bbox",)
    ids = [f"{photo.image_id} {photo.path.name}" for photo in photos.photos]
    parts = folder / "parts" / digest(model_folder / MODEL, model_folder / CONFIG, *ids)[:16]
    base, main = len(config.base), PartialState().is_main_process
    figures: dict[str, dict[str, ByCategory]] = {kind: {} for kind in kinds}
    for protocol, file, first in (("gzsd", "detections.json", 0), ("zsd", "detections_zsd.json", base)):
        labels = range(first + 1, len(photos.names) + 1)
        found = detect_in_parts(
            model, photos.photos, text[first:], labels, recipe.evaluate.batch_size, parts / protocol
        )
        if main:
            for kind in kinds:
                figures[kind][protocol] = coco_metrics(truth, found, labels, kind)
            _write_detections(folder / file, found, rules.category_ids)
    if main:
        metrics = {
            "setting": config.setting,
            "split": config.split,
            **headline(**figures["bbox"], base=base),
            "proposals": _proposal_recall(recipe, photos, config, teacher, run_folder / "targets", device),
            **_told_by_stages(run_folder, counts_of(photos, base)),
            **({"lvis": by_frequency(figures["bbox"]["gzsd"], rules.frequencies)} if rules.frequencies else {}),
            **({"masks": headline(**figures["segm"], base=base)} if "segm" in kinds else {}),
        }
        write_text(folder / "per_category.csv", per_category_csv(photos, figures["bbox"]["gzsd"], base))
        write_json(folder / "metrics.json", _rounded(metrics))
        shutil.rmtree(folder / "parts", ignore_errors=True)
        Console(highlight=False).print(summary(metrics))
    PartialState().wait_for_everyone()
    result: dict[str, Any] = read_json(folder / "metrics.json")
    return result


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


def ground_truth_of(photos: Photos, rules: Rules) -> dict[str, Any]:
    """Return the evaluator's dictionary; category id = label; LVIS's rules are in it when the file has them."""
    truth = coco_ground_truth(photos)
    if rules.images:
        truth["images"] = [{**image, **rules.images.get(image["id"], {})} for image in truth["images"]]
    return truth


def headline(gzsd: ByCategory, zsd: ByCategory, base: int) -> dict[str, dict[str, float | None]]:
    """Sum figures up into the keys "gzsd" and "zsd" of metrics.json.

    Args:
        gzsd: figures of all names by label.
        zsd: figures of the novel names by label.
        base: number of base names; labels up to it are base.
    """
    of_base = mean_figures(figures for label, figures in gzsd.items() if label <= base)
    of_novel = mean_figures(figures for label, figures in gzsd.items() if label > base)
    of_all, of_zsd = mean_figures(gzsd.values()), mean_figures(zsd.values())
    return {
        "gzsd": {
            "ap50_base": of_base.ap50,
            "ap50_novel": of_novel.ap50,
            "ap50_all": of_all.ap50,
            "harmonic_mean": harmonic_mean(of_base.ap50, of_novel.ap50),
            "ap_base": of_base.ap,
            "ap_novel": of_novel.ap,
            "ap_all": of_all.ap,
        },
        "zsd": {"ap50": of_zsd.ap50, "ap": of_zsd.ap},
    }


def by_frequency(figures: ByCategory, frequencies: Mapping[int, str]) -> dict[str, float | None]:
    """Return LVIS's AP of all, rare, common and frequent names."""
    groups = {f"ap_{group}": [figures[label] for label, of in frequencies.items() if of == group] for group in "rcf"}
    return {
        "ap": mean_figures(figures.values()).ap,
        **{key: mean_figures(members).ap for key, members in groups.items()},
    }


def counts_of(photos: Photos, base: int) -> dict[str, int]:
    """Count photos, boxes (crowds apart) and what was left out as bad."""
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(photo.labels[~photo.crowd] for photo in photos.photos)])
    return {
        "photos": len(photos.photos),
        "boxes_base": int((labels <= base).sum()),
        "boxes_novel": int((labels > base).sum()),
        "crowds": sum(int(photo.crowd.sum()) for photo in photos.photos),
        "skipped": len(photos.skipped),
    }


def per_category_csv(photos: Photos, figures: ByCategory, base: int) -> str:
    """Return a table name, base or novel, boxes, ap, ap50, ar; a figure that was not measured is left empty."""
    boxes = Counter(label for photo in photos.photos for label in photo.labels[~photo.crowd].tolist())
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", "split", "boxes", "ap", "ap50", "ar"])
    for label, name in enumerate(photos.names, start=1):
        row = (figures[label].ap, figures[label].ap50, figures[label].ar)
        side = "base" if label <= base else "novel"
        table.writerow([name, side, boxes[label], *("" if value is None else round(value, 4) for value in row)])
    return text.getvalue()


def summary(metrics: Mapping[str, Any]) -> Group:
    """Return what metrics.json says for people: a table of figures, with their setting and cost."""
    gzsd, zsd = metrics["gzsd"], metrics["zsd"]
    known = SETTINGS.get(metrics["setting"], "")
    table = Table(title=f"Split {metrics['split']}, setting {metrics['setting']}{known}", title_justify="left")
    for column in ("AP in 0..100", "base", "novel", "all", "harmonic mean"):
        table.add_column(column, justify="right" if table.columns else "left")
    table.add_row("gzsd AP50", *(_shown(gzsd[key]) for key in ("ap50_base", "ap50_novel", "ap50_all", "harmonic_mean")))
    table.add_row("gzsd AP", *(_shown(gzsd[key]) for key in ("ap_base", "ap_novel", "ap_all")))
    table.add_row("zsd AP50", "", _shown(zsd["ap50"]))
    table.add_row("zsd AP", "", _shown(zsd["ap"]))
    return Group(table, _cost_line(metrics))


def _cost_line(metrics: Mapping[str, Any]) -> str:
    counts = metrics["counts"]
    cost = {key: _shown(value) for key, value in metrics["cost"].items()}
    stored = metrics["cost"]["target_bytes"]
    return (
        f"{counts['photos']} photos, {counts['boxes_base']} base and {counts['boxes_novel']} novel boxes, "
        f"{counts['skipped']} skipped; - = not measured\n"
        f"Cost: adapt {cost['adapt_s']} s, propose {cost['propose_s']} s, train {cost['train_s']} s; "
        f"teacher: {cost['teacher_crops']} crops, {cost['teacher_dense_passes']} dense passes, "
        f"{_shown(None if stored is None else stored / 1e6)} MB stored"
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _told_by_stages(run_folder: Path, counts: Mapping[str, int]) -> dict[str, Any]:
    """Gather what earlier stages measured; None where a stage did not run."""
    paths = {stage: run_folder / stage / "metrics.json" for stage in ("adapt", "targets", "train")}
    told = {stage: read_json(path) if path.exists() else {} for stage, path in paths.items()}
    return {
        "teacher": {key: told["adapt"].get(key) for key in _ACCURACY},
        "counts": dict(counts),
        "cost": {key: told[stage].get(entry) for key, (stage, entry) in _COST.items()},
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _write_detections(path: Path, found: Sequence[Mapping[str, Any]], category_ids: Sequence[int]) -> None:
    lines = (json.dumps({**entry, "category_id": category_ids[entry["category_id"] - 1]}) for entry in found)
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def _proposal_recall(
    recipe: Recipe, photos: Photos, config: ModelConfig, teacher: Teacher | None, targets: Path, device: str
) -> dict[str, float | None]:
    if teacher is None or not recipe.evaluate.proposals or not config.novel:
        return dict.fromkeys(_RECALL)
    settings, rpn = recipe.propose, None
    if settings.asks_rpn:
        if not needs_targets(recipe.train):  # then no RPN was trained
            return dict.fromkeys(_RECALL)
        rpn = load_base_rpn(targets, settings.shortlist, device)
    split = CategorySplit(config.split, config.base, config.novel)
    measured = measure_proposals(teacher, photos, split, settings, recipe.prompt, device, rpn=rpn)
    return {key: measured[key] for key in _RECALL}
