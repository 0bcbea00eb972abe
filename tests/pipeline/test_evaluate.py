"""Stage evaluate: the files it writes, resuming, and metrics that match its detections."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from ezsd.data.formats.coco import load_images
from ezsd.data.formats.lvis import read_rules
from ezsd.data.samples import ImageSet, read_image
from ezsd.detector.detections import Detections
from ezsd.detector.model_folder import load_model
from ezsd.detector.rcnn import Rcnn
from ezsd.errors import ArtifactError
from ezsd.evaluation.metrics import Figures
from ezsd.evaluation.summary import headline, per_category_csv, summary
from ezsd.inference import batching as inference
from ezsd.pipeline import evaluate
from ezsd.pipeline.context import RunContext
from ezsd.pipeline.evaluate import run_evaluate
from ezsd.recipe import Recipe
from ezsd.run_folder import RunFolder
from ezsd.run_metrics import EvaluateMetrics
from tiny import SPLIT, TinyCoco, make_tiny_coco
from tiny_run import make_model_folder, make_recipe

KEYS = {  # the documented keys
    "setting": None,
    "split": None,
    "gzsd": {"ap50_base", "ap50_novel", "ap50_all", "harmonic_mean", "ap_base", "ap_novel", "ap_all"},
    "zsd": {"ap50", "ap"},
    "zsd_all_images": {"ap50", "ap"},
    "proposals": {"novel_recall_at_100", "novel_recall_at_300"},
    "teacher": {"accuracy_base_before", "accuracy_base_after", "accuracy_novel_before", "accuracy_novel_after"},
    "counts": {"images", "boxes_base", "boxes_novel", "crowds", "skipped"},
    "cost": {"adapt_s", "propose_s", "train_s", "teacher_crops", "teacher_dense_passes", "target_bytes"},
    "exact_boxes": {"base", "novel"},
    "false_alarms": {"boxes", "base", "novel"},
    "shown": {"base", "novel", "novel_boxes_used"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyCoco, Recipe, ImageSet, Path]:
    folder = tmp_path_factory.mktemp("evaluate")
    coco = make_tiny_coco(folder / "data")
    make_model_folder(folder / "run" / "train" / "model")
    recipe = make_recipe(coco)
    return coco, recipe, load_images(recipe.data.val, SPLIT.names), folder / "run"


@pytest.fixture
def run_folder(made: tuple[TinyCoco, Recipe, ImageSet, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[3], tmp_path / "run"))


def _pycocotools(
    coco: TinyCoco, names: tuple[str, ...], detections: list[dict[str, Any]], with_boxes: bool = False
) -> tuple[float, float]:
    """AP and AP50 of the reference evaluator, with only the categories and boxes of ``names``.

    ``with_boxes``: only on images with such boxes, as the annotation files of the literature are made.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ids = [entry["id"] for entry in coco.content["categories"] if entry["name"] in names]
    truth = COCO()
    truth.dataset = json.loads(coco.annotations.read_text())
    truth.createIndex()
    evaluator = COCOeval(truth, truth.loadRes(detections), "bbox")
    evaluator.params.catIds = ids
    if with_boxes:
        held = {entry["image_id"] for entry in coco.content["annotations"] if entry["category_id"] in ids}
        assert len(held) < len(coco.content["images"])
        evaluator.params.imgIds = sorted(held)
    evaluator.evaluate()
    evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    return 100 * precision[precision > -1].mean(), 100 * precision[0][precision[0] > -1].mean()


def _evaluate(recipe: Recipe, images: ImageSet, folder: Path) -> dict[str, Any]:
    return run_evaluate(RunContext(recipe, SPLIT, RunFolder(folder), "cpu"), images, None).to_json()


def _mostly_correct(images: ImageSet) -> Callable[[Rcnn, list[Tensor], Tensor], list[Detections]]:
    """A detector that finds most true boxes, slightly moved, and false ones, so that metrics lie between 0 and 100."""
    truth = {read_image(image).numpy().tobytes(): image for image in images}
    generator = torch.Generator().manual_seed(0)

    def detect(self: Rcnn, pixels: list[Tensor], text: Tensor, *_: Any) -> list[Detections]:
        found = []
        for each in pixels:
            image = truth[each.numpy().tobytes()]
            first = len(images.names) - len(text)
            own = image.labels > first
            boxes = image.boxes[own] + torch.randn(int(own.sum()), 4, generator=generator)
            false = torch.tensor([[5.0, 5.0, 30.0, 30.0]]).expand(len(text), 4)
            labels = torch.cat([image.labels[own] - 1 - first, torch.arange(len(text))])
            scores = torch.rand(len(labels), generator=generator)
            found.append(Detections(torch.cat([boxes, false]), labels, scores))
            if self.roi_heads.has_mask():
                found[-1].masks = torch.ones(len(labels), 28, 28)
        return found

    return detect


def test_metrics_match_the_written_detections(
    made: tuple[TinyCoco, Recipe, ImageSet, Path], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco, recipe, images, _ = made
    monkeypatch.setattr(Rcnn, "detect", _mostly_correct(images))
    metrics = _evaluate(recipe, images, run_folder)
    folder = run_folder / "evaluate"
    detections = json.loads((folder / "detections.json").read_text())
    ids = {entry["id"]: entry["name"] for entry in coco.content["categories"]}
    assert {ids[entry["category_id"]] for entry in detections} == set(SPLIT.names)
    for key, names in (("base", SPLIT.base), ("novel", SPLIT.novel), ("all", SPLIT.names)):
        expected = _pycocotools(coco, names, detections)
        assert 10 < expected[1] < 100
        assert (metrics["gzsd"][f"ap_{key}"], metrics["gzsd"][f"ap50_{key}"]) == pytest.approx(expected, abs=1e-4)
    novel_only = json.loads((folder / "detections_zsd.json").read_text())
    assert {ids[entry["category_id"]] for entry in novel_only} == set(SPLIT.novel)
    for key, with_boxes in (("zsd", True), ("zsd_all_images", False)):
        assert (metrics[key]["ap"], metrics[key]["ap50"]) == pytest.approx(
            _pycocotools(coco, SPLIT.novel, novel_only, with_boxes), abs=1e-4
        )
    assert metrics["zsd"]["ap50"] > metrics["zsd_all_images"]["ap50"]  # false positives elsewhere do not count
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert sorted(path.name for path in folder.iterdir()) == [
        "confusion.json", "detections.json", "detections_zsd.json", "metrics.json", "per_category.csv",
    ]  # fmt: skip


def test_zsd_detects_only_novel_names(made: tuple[TinyCoco, Recipe, ImageSet, Path], run_folder: Path) -> None:
    _, recipe, images, _ = made
    _evaluate(recipe, images, run_folder)
    model, _, text = load_model(run_folder / "train" / "model")
    for file, asked in (("detections.json", text), ("detections_zsd.json", text[2:])):
        (expected,) = model.detect([read_image(images[0])], asked)
        written = json.loads((run_folder / "evaluate" / file).read_text())
        scores = [entry["score"] for entry in written if entry["image_id"] == images[0].image_id]
        assert scores == pytest.approx(expected.scores.tolist(), abs=1e-5)


def test_metrics_have_the_documented_keys(made: tuple[TinyCoco, Recipe, ImageSet, Path], run_folder: Path) -> None:
    _, recipe, images, _ = made
    stages = {
        "adapt": {"seconds": 1.5, "accuracy_base_before": 0.2, "accuracy_base_after": 0.4},
        "targets": {"seconds": 2.5, "crops": 300, "dense_passes": 16, "bytes": 4000},
        "train": {"seconds": 3.5, "steps": 7},
    }
    for stage, expected in stages.items():
        (run_folder / stage).mkdir(exist_ok=True)
        (run_folder / stage / "metrics.json").write_text(json.dumps(expected))
    metrics = _evaluate(recipe, images, run_folder)
    assert list(metrics) == list(KEYS)
    assert {key: set(metrics[key]) for key, keys in KEYS.items() if keys} == {k: v for k, v in KEYS.items() if v}
    assert (metrics["setting"], metrics["split"]) == ("named", "tiny")
    assert metrics["cost"] == {
        "adapt_s": 1.5, "propose_s": 2.5, "train_s": 3.5,
        "teacher_crops": 300, "teacher_dense_passes": 16, "target_bytes": 4000,
    }  # fmt: skip
    assert metrics["teacher"]["accuracy_base_after"] == 0.4
    assert metrics["teacher"]["accuracy_novel_after"] is None
    assert set(metrics["proposals"].values()) == {None}
    boxes = [(SPLIT.base, "boxes_base"), (SPLIT.novel, "boxes_novel")]
    ids = {entry["id"]: entry["name"] for entry in made[0].content["categories"]}
    for names, key in boxes:
        rows = [entry for entry in made[0].content["annotations"] if ids[entry["category_id"]] in names]
        assert metrics["counts"][key] == sum(not entry["iscrowd"] for entry in rows)
        exact = metrics["exact_boxes"][key.removeprefix("boxes_")]
        assert set(exact) == {"right", "other_name", "background", "called_background"}
        assert exact["right"] + exact["other_name"] + exact["background"] == metrics["counts"][key]
    assert metrics["counts"]["crowds"] == 1
    assert metrics["counts"]["images"] == 8
    thresholds = json.loads((run_folder / "train/model/thresholds.json").read_text())
    assert set(thresholds["names"]) == set(SPLIT.names) and not thresholds["novel_boxes_used"]
    matrix = json.loads((run_folder / "evaluate/confusion.json").read_text())
    objects = sum(count for label, _, count in matrix["counts"] if label)
    assert objects == metrics["counts"]["boxes_base"] + metrics["counts"]["boxes_novel"]


def test_killed_evaluation_resumes(
    made: tuple[TinyCoco, Recipe, ImageSet, Path], run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, recipe, images, source = made
    monkeypatch.setattr(inference, "_PART_IMAGES", 2)
    uninterrupted = _evaluate(recipe, images, run_folder)
    killed = Path(shutil.copytree(source, tmp_path / "killed"))
    detect, seen, patience = Rcnn.detect, 0, 5

    def dies(self: Rcnn, pixels: list[Tensor], text: Tensor, *_: Any) -> list[Detections]:
        nonlocal seen
        seen += len(pixels)
        if seen > patience:
            raise KeyboardInterrupt
        return detect(self, pixels, text)

    monkeypatch.setattr(Rcnn, "detect", dies)
    with pytest.raises(KeyboardInterrupt):
        _evaluate(recipe, images, killed)
    seen, patience = 0, 1000
    assert _evaluate(recipe, images, killed) == uninterrupted
    assert seen == 2 * len(images) - 4
    for name in ("detections.json", "per_category.csv"):
        assert (killed / "evaluate" / name).read_text() == (run_folder / "evaluate" / name).read_text()


def _parts(run_folder: Path) -> list[Path]:
    return sorted((run_folder / "evaluate" / "parts").rglob("*.json"))


def test_damaged_parts_are_made_again(
    made: tuple[TinyCoco, Recipe, ImageSet, Path], run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, recipe, images, _ = made
    monkeypatch.setattr(inference, "_PART_IMAGES", 2)
    expected = _evaluate(recipe, images, Path(shutil.copytree(run_folder, tmp_path / "other")))
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "coco_metrics", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _evaluate(recipe, images, run_folder)
    first, second, *_ = _parts(run_folder)
    first.write_text(first.read_text().replace('"score": 0.', '"score": 0.9'))
    second.write_text(second.read_text()[:100])
    assert _evaluate(recipe, images, run_folder) == expected


def test_parts_of_another_model_are_not_used(
    made: tuple[TinyCoco, Recipe, ImageSet, Path], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, recipe, images, _ = made
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "coco_metrics", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _evaluate(recipe, images, run_folder)
    assert _parts(run_folder)
    make_model_folder(run_folder / "train" / "model", seed=1)
    other = _evaluate(recipe, images, run_folder)
    shutil.rmtree(run_folder / "evaluate")
    assert _evaluate(recipe, images, run_folder) == other


def test_novel_names_without_boxes_are_not_measured(
    made: tuple[TinyCoco, Recipe, ImageSet, Path], run_folder: Path, tmp_path: Path
) -> None:
    coco = make_tiny_coco(tmp_path / "data")
    novel = [entry["id"] for entry in coco.content["categories"] if entry["name"] in SPLIT.novel]
    coco.content["annotations"] = [e for e in coco.content["annotations"] if e["category_id"] not in novel]
    coco.save()
    recipe = make_recipe(coco)
    metrics = _evaluate(recipe, load_images(recipe.data.val, SPLIT.names), run_folder)
    assert metrics["zsd"] == {"ap50": None, "ap": None}
    for key in ("ap50_novel", "harmonic_mean", "ap_novel"):
        assert metrics["gzsd"][key] is None
    assert metrics["gzsd"]["ap50_all"] == metrics["gzsd"]["ap50_base"] is not None
    rows = list(csv.DictReader(io.StringIO((run_folder / "evaluate" / "per_category.csv").read_text())))
    assert [(row["name"], row["split"], row["ap50"] == "") for row in rows] == [
        ("circle", "base", False), ("square", "base", False), ("triangle", "novel", True), ("bar", "novel", True),
    ]  # fmt: skip


def test_masks_are_measured_if_model_and_annotations_have_them(
    made: tuple[TinyCoco, Recipe, ImageSet, Path], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, recipe, images, _ = made
    monkeypatch.setattr(Rcnn, "detect", _mostly_correct(images))
    make_model_folder(run_folder / "train" / "model", masks=True)
    metrics = _evaluate(recipe, images, run_folder)
    assert set(metrics["masks"]["gzsd"]) == KEYS["gzsd"]
    assert 0 < metrics["masks"]["gzsd"]["ap_all"] < metrics["gzsd"]["ap_all"]  # predicted masks fill their boxes
    assert metrics["masks"]["zsd"]["ap50"] > 0
    first = json.loads((run_folder / "evaluate" / "detections.json").read_text())[0]
    assert set(first["segmentation"]) == {"size", "counts"}


def test_lvis_rules_are_applied(
    made: tuple[TinyCoco, Recipe, ImageSet, Path], run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco = make_tiny_coco(tmp_path / "data")
    frequencies = {"circle": "f", "square": "c", "triangle": "r", "bar": "r", "ring": "f"}
    for category in coco.content["categories"]:
        category["frequency"] = frequencies[category["name"]]
    for image in coco.content["images"]:
        image.update(neg_category_ids=[44, 20] if image["id"] == 19 else [], not_exhaustive_category_ids=[12])
    coco.save()
    rules = read_rules(coco.annotations, SPLIT.names)
    assert rules.category_ids == (3, 7, 20, 12)
    assert rules.images[19] == {"neg_category_ids": [3], "not_exhaustive_category_ids": [4]}
    assert rules.frequencies == {1: "f", 2: "c", 3: "r", 4: "r"}
    recipe = make_recipe(coco)
    images = load_images(recipe.data.val, SPLIT.names)
    monkeypatch.setattr(Rcnn, "detect", _mostly_correct(images))
    federated = _evaluate(recipe, images, run_folder)
    assert set(federated["lvis"]) == {"ap", "ap_r", "ap_c", "ap_f"}
    assert "lvis_masks" not in federated  # the model has no mask branch
    assert federated["lvis"]["ap_r"] == federated["gzsd"]["ap_novel"]
    shutil.rmtree(run_folder / "evaluate")
    monkeypatch.setattr(Rcnn, "detect", _mostly_correct(images))  # same detections as before
    plain = _evaluate(made[1], made[2], run_folder)
    assert "lvis" not in plain
    assert federated["gzsd"]["ap_all"] > plain["gzsd"]["ap_all"]  # fewer false positives count


def test_lvis_rules_are_applied_to_masks(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco = make_tiny_coco(tmp_path / "data")
    for category in coco.content["categories"]:
        category["frequency"] = "r" if category["name"] in SPLIT.novel else "f"
    for image in coco.content["images"]:
        image.update(neg_category_ids=[20], not_exhaustive_category_ids=[])
    coco.save()
    recipe = make_recipe(coco)
    images = load_images(recipe.data.val, SPLIT.names)
    monkeypatch.setattr(Rcnn, "detect", _mostly_correct(images))
    make_model_folder(run_folder / "train" / "model", masks=True)
    metrics = _evaluate(recipe, images, run_folder)
    assert metrics["lvis_masks"]["ap_r"] == metrics["masks"]["gzsd"]["ap_novel"]
    assert 0 < metrics["lvis_masks"]["ap"] < metrics["lvis"]["ap"]  # predicted masks fill their boxes


def test_zsd_of_older_files_is_read_as_the_count_over_all_images() -> None:
    old = {"zsd": {"ap50": 5.0, "ap": 2.0}, "masks": {"zsd": {"ap50": 4.0, "ap": 1.0}}}
    read = EvaluateMetrics.model_validate(old)
    assert read.masks is not None
    assert (read.zsd.ap50, read.zsd_all_images.ap50) == (None, 5.0)
    assert (read.masks.zsd.ap50, read.masks.zsd_all_images.ap50) == (None, 4.0)
    again = EvaluateMetrics.model_validate(read.to_json())
    assert again == read


def test_names_missing_from_the_annotations_get_new_ids(made: tuple[TinyCoco, Recipe, ImageSet, Path]) -> None:
    rules = read_rules(made[0].annotations, ("circle", "unicorn", "bar", "dragon"))
    assert rules.category_ids == (3, 45, 12, 46)
    assert rules.images == rules.frequencies == {}


def test_images_loaded_with_other_names_are_refused(
    made: tuple[TinyCoco, Recipe, ImageSet, Path], run_folder: Path
) -> None:
    _, recipe, _, _ = made
    with pytest.raises(ArtifactError, match="split tiny"):
        _evaluate(recipe, load_images(recipe.data.val, ("square", "circle")), run_folder)


def test_headline_averages_base_and_novel_separately() -> None:
    gzsd = {1: Figures(10, 20, 0), 2: Figures(30, 40, 0), 3: Figures(5, 15, 0), 4: Figures(None, None, None)}
    none = Figures(None, None, None)
    expected = headline(gzsd, {3: Figures(7, 17, 0), 4: none}, {3: Figures(6, 16, 0), 4: none}, base=2)
    assert expected["zsd"].to_json() == {"ap50": 17, "ap": 7}
    assert expected["zsd_all_images"].to_json() == {"ap50": 16, "ap": 6}
    assert expected["gzsd"].to_json() == {
        "ap50_base": 30, "ap50_novel": 15, "ap50_all": 25, "harmonic_mean": pytest.approx(20),
        "ap_base": 20, "ap_novel": 5, "ap_all": 15,
    }  # fmt: skip


def test_summary_shows_setting_cost_and_missing_values() -> None:
    metrics = {
        "setting": "named", "split": "tiny",
        **headline({1: Figures(10, 20, 0), 2: Figures(None, None, None)}, {}, {}, base=1),
        "lvis_masks": {"ap": 3.25, "ap_r": None, "ap_c": 1.0, "ap_f": 2.0},
        "counts": {"images": 1, "boxes_base": 9000, "boxes_novel": 1, "crowds": 1, "skipped": 2},
        "cost": {"adapt_s": 1.5, "propose_s": None, "train_s": 3600.0, "teacher_crops": 12345,
                 "teacher_dense_passes": None, "target_bytes": 2_500_000},
    }  # fmt: skip
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(summary(EvaluateMetrics.model_validate(metrics)))
    text = console.export_text().replace("\N{NO-BREAK SPACE}", " ")
    for expected in ("setting named", "20.0", " - ", "adapt 1.5 s", "12,345 crops", "2.5 MB", "2 skipped",
                     "1 image, 9,000 base and 1 novel box,", "- dense passes",
                     "LVIS masks: AP 3.2, rare -, common 1.0, frequent 2.0"):  # fmt: skip
        assert expected in text


def test_per_category_csv_counts_boxes_and_leaves_missing_values_empty(
    made: tuple[TinyCoco, Recipe, ImageSet, Path],
) -> None:
    images = made[2]
    figures = {1: Figures(1.23456, 2, 3), 2: Figures(None, None, None), 3: Figures(0, 0, 0), 4: Figures(0, 0, 0)}
    rows = list(csv.DictReader(io.StringIO(per_category_csv(images, figures, base=2))))
    assert rows[0]["ap"] == "1.2346"
    assert rows[1]["ap"] == rows[1]["ar"] == ""
    labels = torch.cat([image.labels[~image.crowd] for image in images])
    assert [int(row["boxes"]) for row in rows] == [int((labels == label).sum()) for label in range(1, 5)]
