"""A set in LVIS format with 1,203 names: both splits load, and its figures equal those of the `lvis` package."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import make_lvis
from ezsd.data.categories import load_split
from ezsd.data.formats.coco import load_images
from ezsd.data.formats.lvis import ground_truth_of, read_rules
from ezsd.errors import DataError
from ezsd.evaluation.metrics import coco_metrics
from ezsd.evaluation.summary import by_frequency
from ezsd.recipe import Part
from lvis_figures import official_figures

CATEGORIES = [
    {"id": 5, "name": "doughnut", "synonyms": ["donut"], "frequency": "f", "def": "fried dough"},
    {"id": 9, "name": "anklet", "synonyms": [], "frequency": "r"},
    *({"id": 20 + index, "name": f"thing {index}", "synonyms": [], "frequency": "c"} for index in range(30)),
]


def test_boxes_get_the_name_of_their_synonym_and_images_list_absent_names() -> None:
    content: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 90, "height": 60}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": int(index == 0)}
            for index in range(60)
        ],
        "categories": [{"id": 1, "name": "donut"}],
    }
    made = make_lvis.to_lvis(content, CATEGORIES, "images")
    (image,) = made["images"]
    labels = [entry["category_id"] for entry in made["annotations"]]
    assert len(labels) == 59 and 40 < labels.count(5) < 59
    assert image["coco_url"] == "images/a.jpg" and "file_name" not in image
    assert image["neg_category_ids"] and not set(image["neg_category_ids"]) & set(labels)
    assert set(image["not_exhaustive_category_ids"]) <= set(labels)
    assert made == make_lvis.to_lvis(content, CATEGORIES, "images")


def test_wrong_categories_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "categories.json").write_text('[{"id": 1}]')
    with pytest.raises(DataError, match="expected the categories of LVIS v1"):
        make_lvis.read_categories(tmp_path / "categories.json")


@pytest.mark.real_data
@pytest.mark.parametrize(
    "folder, kind, split, sides",
    [("coco2k", "bbox", "lvis_rare", (866, 337)), ("coco_masks", "segm", "lvis_common_rare", (405, 798))],
)
def test_figures_of_both_splits_equal_the_lvis_package(
    folder: str, kind: str, split: str, sides: tuple[int, int], shared_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(np, "float", float, raising=False)
    categories, source = shared_data / "text/lvis_v1_categories.json", shared_data / folder / "instances_val.json"
    arguments = ["make_lvis.py", str(source), "--categories", str(categories), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    make_lvis.main()
    annotations = tmp_path / "lvis_val.json"
    chosen = load_split(split, annotations)
    assert (len(chosen.base), len(chosen.novel)) == sides
    images = load_images(Part(images=shared_data / folder, annotations=annotations), chosen.names)
    rules = read_rules(annotations, chosen.names)
    truth = ground_truth_of(images, rules)
    found = _detections(json.loads(annotations.read_text()))
    labels = {category: label for label, category in enumerate(rules.category_ids, start=1)}
    ours = by_frequency(
        coco_metrics(truth, [{**entry, "category_id": labels[entry["category_id"]]} for entry in found], kind=kind),
        rules.frequencies,
    )
    theirs = official_figures(annotations, found, kind)
    for key in ("ap", "ap_r", "ap_c", "ap_f"):
        assert 5 < getattr(ours, key) < 95
        assert getattr(ours, key) == pytest.approx(getattr(theirs, key), abs=1e-6), key


def _detections(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return most boxes, slightly moved, some with another name, and boxes of absent and unknown names."""
    from faster_coco_eval.core import mask as rle

    rng, ids = np.random.default_rng(0), [entry["id"] for entry in content["categories"]]
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in content["images"]}
    found = []
    for entry in content["annotations"]:
        for _ in range(rng.integers(0, 3)):
            x, y, width, height = entry["bbox"]
            moved = [x + rng.normal(0, 0.06) * width, y, width * rng.uniform(0.8, 1.2), height]
            category = int(rng.choice(ids)) if rng.random() < 0.2 else entry["category_id"]
            found.append({"image_id": entry["image_id"], "category_id": category, "bbox": [float(v) for v in moved]})
    for image in content["images"]:
        for category in image["neg_category_ids"][:3]:
            found.append({"image_id": image["id"], "category_id": category, "bbox": [5.0, 5.0, 60.0, 60.0]})
    for entry in found:
        entry["score"] = float(rng.integers(1, 100)) / 100
        x, y, width, height = entry["bbox"]
        outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        code = rle.frPyObjects(outline, *sizes[entry["image_id"]])[0]
        entry["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}
    return found
