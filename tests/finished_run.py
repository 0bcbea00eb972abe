"""The files of a finished run on the data of tests/tiny.py, with known figures and detections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ezsd.data.categories import load_split
from ezsd.data.formats.coco import load_images
from ezsd.data.target_store import Regions, write_index, write_shard
from ezsd.pipeline.fingerprints import stage_inputs
from ezsd.recipe import parse_recipe, save_recipe
from ezsd.utils.files import write_json
from tiny import CATEGORIES, SPLIT, TinyCoco
from tiny_teacher import tiny_values

ENVIRONMENT = {"ezsd": "0.1.0", "torch": "2.11.0", "device": "1 x cpu"}
LOSSES = {"loss": 3.0, "loss_classifier": 1.0, "loss_box": 1.0, "loss_distillation": 1.0, "loss_mask": 0.0}


def make_finished_run(folder: Path, coco: TinyCoco, ap50_novel: float | None = 12.5, **changes: Any) -> Path:
    """Write a run folder without a model.

    Every base box is detected with score 0.9 and no novel box is. A wrong bar is detected in images 11 and 4.

    Args:
        folder: The run folder to write.
        coco: The data set of the run.
        ap50_novel: The gzsd AP50 of novel names.
        changes: Changes of the recipe, as in ``train__lr=0.5``; ``setting`` is the setting in the metrics.
    """
    setting = changes.pop("setting", "named")
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section] = {**values.get(section, {}), name: value} if name else value
    recipe = parse_recipe(values, "test")
    split = load_split(recipe.split)
    save_recipe(recipe, folder / "recipe.yaml", {"run folder of": "ezsd"})
    write_json(folder / "evaluate/inputs.json", stage_inputs(recipe, split)["evaluate"])
    for stage, seconds in (("adapt", 3.0), ("targets", 4.0), ("train", 5.0), ("evaluate", 6.0)):
        done = {"seconds": seconds, "finished": "2026-01-02T03:04:05+00:00", "environment": ENVIRONMENT}
        write_json(folder / stage / "done.json", done)
    write_json(folder / "evaluate/metrics.json", _metrics(setting, split.name, ap50_novel))
    _write_detections(folder, coco)
    _write_other_stages(folder, coco)
    return folder


def _metrics(setting: str, split: str, ap50_novel: float | None) -> dict[str, Any]:
    accuracy = {f"accuracy_{side}_{when}": 0.25 for side in ("base", "novel") for when in ("before", "after")}
    return {
        "setting": setting,
        "split": split,
        "gzsd": {"ap50_base": 40.0, "ap50_novel": ap50_novel, "ap50_all": 30.1234, "harmonic_mean": 19.0476,
                 "ap_base": 20.0, "ap_novel": 6.0, "ap_all": 13.0},
        "zsd": {"ap50": 22.0, "ap": 11.0},
        "zsd_all_images": {"ap50": 21.0, "ap": 10.0},
        "proposals": {"novel_recall_at_100": 0.5, "novel_recall_at_300": None},
        "teacher": accuracy,
        "counts": {"images": 8, "boxes_base": 11, "boxes_novel": 6, "crowds": 1, "skipped": 0},
        "cost": {"adapt_s": 3.0, "propose_s": 4.0, "train_s": 5.0, "teacher_crops": 1200,
                 "teacher_dense_passes": 16, "target_bytes": 2_500_000},
    }  # fmt: skip


def _write_detections(folder: Path, coco: TinyCoco) -> None:
    novel = {key for key, name in CATEGORIES.items() if name in SPLIT.novel}
    wanted = {key for key, name in CATEGORIES.items() if name in SPLIT.base}
    found = [
        {"image_id": entry["image_id"], "category_id": entry["category_id"], "bbox": entry["bbox"], "score": 0.9}
        for entry in coco.content["annotations"]
        if entry["category_id"] in wanted and not entry["iscrowd"]
    ]
    found.append({"image_id": 11, "category_id": min(novel), "bbox": [1.0, 1.0, 9.0, 9.0], "score": 0.8})
    found.append({"image_id": 4, "category_id": min(novel), "bbox": [1.0, 1.0, 9.0, 9.0], "score": 0.1})
    write_json(folder / "evaluate/detections.json", found)
    lines = [f"{name},{'base' if name in SPLIT.base else 'novel'},5,10.0,{place * 10}.0,50.0"
             for place, name in enumerate(SPLIT.names, start=1)]  # fmt: skip
    lines[-1] = f"{SPLIT.names[-1]},novel,0,,,"
    (folder / "evaluate/per_category.csv").write_text("\n".join(["name,split,boxes,ap,ap50,ar", *lines]) + "\n")


def _write_other_stages(folder: Path, coco: TinyCoco) -> None:
    write_json(folder / "adapt/metrics.json", {
        "accuracy_base_before": 0.25, "accuracy_base_after": 0.25, "accuracy_novel_before": 0.25,
        "accuracy_novel_after": 0.25, "accuracy_novel_among_novel_before": 0.5,
        "accuracy_novel_among_novel_after": None, "val_crops": 17, "crops": 40, "steps": 5, "seconds": 3.0,
    })  # fmt: skip
    write_json(folder / "adapt/confusion.json", {
        "names": SPLIT.names, "base": 2, "before": [[0, 0, 4], [0, 3, 6], [2, 1, 5]], "after": [[0, 0, 10], [2, 2, 5]],
    })  # fmt: skip
    write_json(folder / "train/metrics.json", {"steps": 20, "images": 40, "seconds": 5.0, "images_per_second": 8.0,
                                              "train_images": 8, "train_boxes": 40})  # fmt: skip
    log = [{"step": step, "epoch": 1.0, "lr": 0.1, **{key: value / step for key, value in LOSSES.items()}}
           for step in (10, 20)]  # fmt: skip
    (folder / "train/log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    write_json(folder / "targets/metrics.json", {"images": 8, "proposals": 8, "base_boxes": 0, "crops": 8})
    images = load_images(coco.part(), SPLIT.names).images
    regions = {
        image.image_id: Regions(
            torch.tensor([[2.0, 2.0, 30.0, 30.0]]), F.normalize(torch.ones(1, 4), dim=1).half(), torch.tensor([0.75]),
            torch.tensor([0.6]), torch.tensor([3]), torch.tensor([False]),
        )
        for image in images
    }  # fmt: skip
    write_shard(folder / "targets/shard-00000.arrow", regions, {})
    write_index(folder / "targets", [folder / "targets/shard-00000.arrow"], {})
