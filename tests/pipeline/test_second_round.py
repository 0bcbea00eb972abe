"""The second round of training: which detections become pseudo-boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

import ezsd.training.loop
from ezsd.data.samples import AnnotatedImage
from ezsd.data.target_store import Regions, TargetStore
from ezsd.pipeline.run import run_recipe
from ezsd.pipeline.second_round import SCORE, choose_confident, with_detections
from ezsd.recipe import parse_recipe
from ezsd.run_folder import RunFolder, TrainMetrics, read_metrics
from ezsd.utils.checkpoint import save_checkpoint
from ezsd.utils.files import read_tensors
from tiny import TinyCoco
from tiny_teacher import tiny_values


def image(image_id: int, *boxes: tuple[float, float, float, float]) -> AnnotatedImage:
    found = torch.tensor(boxes).view(-1, 4)
    labels = torch.ones(len(boxes), dtype=torch.int64)
    return AnnotatedImage(image_id, Path("x"), 200, 200, found, labels, torch.zeros(len(boxes)).bool(), None)


def result(image_id: int, score: float, x: float, label: int = 3) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": label, "bbox": [x, 0.0, 10.0, 10.0], "score": score}


FOUND = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1, width=32), st.floats(0, 150)), max_size=40)


@given(FOUND, st.integers(0, 9))
def test_the_best_detections_of_all_images_are_chosen(found: list[tuple[int, float, float]], count: int) -> None:
    images = [image(number, (0.0, 0.0, 40.0, 40.0)) for number in range(4)]
    chosen = choose_confident([result(*each) for each in found], images, 0.7, count)
    every = choose_confident([result(*each) for each in found], images, 0.7, 1000)
    scores = torch.cat([torch.zeros(0), *(part.scores for part in chosen.values())]).sort(descending=True).values
    best = torch.cat([torch.zeros(0), *(part.scores for part in every.values())]).sort(descending=True).values
    assert len(scores) >= min(count, len(best)) and torch.equal(scores, best[: len(scores)])
    assert (scores >= best[count - 1]).all() if 0 < count <= len(best) else True
    for part in every.values():
        assert (box_iou(part.boxes, part.boxes).fill_diagonal_(0) <= 0.5).all()
        assert (part.boxes[:, 0] >= 33 - 1e-3).all()  # 0.7 of a box of 10 pixels lies on the base box otherwise


def test_detections_replace_the_proposals_on_them_and_keep_base_boxes() -> None:
    images = [image(1, (50.0, 0.0, 60.0, 10.0))]
    confident = choose_confident([result(1, 0.9, 0.0), result(1, 0.8, 100.0)], images, 0.7, 1)[1]
    boxes = torch.tensor([[0.0, 0.0, 10.0, 9.0], [90.0, 0.0, 99.0, 9.0], [0.0, 0.0, 10.0, 10.0]])
    values = torch.tensor([1.0, 0.5, 1.0])
    known = Regions(boxes, torch.eye(3).half(), values, values, torch.tensor([3, 4, 1]), torch.arange(3) == 2)
    joined = with_detections(known, confident, torch.full((1, 3), 0.5))
    assert joined.boxes.tolist() == [[0, 0, 10, 10], [90, 0, 99, 9], [0, 0, 10, 10]]
    assert joined.scores.tolist() == [SCORE, 0.5, 1.0] and joined.labels.tolist() == [3, 4, 1]
    assert joined.weights.tolist() == pytest.approx([0.9, 0.5, 1.0])
    assert joined.is_base_box.tolist() == [False, False, True]


def test_second_round_trains_on_detections(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    coco = tiny_coco(tmp_path / "images")
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    values["train"] |= {"names_weight": 1.0, "second_round": 2.0}
    run_recipe(parse_recipe(values, "test"), tmp_path / "run", until="train")
    folder = RunFolder(tmp_path / "run")
    store, first = TargetStore(folder.second_round.path / "targets"), TargetStore(folder.of("propose"))
    assert len(store) == len(first)
    regions = [store[entry["id"]] for entry in coco.content["images"] if entry["id"] in store]
    best = sum(int(((each.scores == SCORE) & ~each.is_base_box).sum()) for each in regions)
    assert best >= round(len(first) / 2)
    assert read_metrics(folder.metrics("train"), TrainMetrics).steps == 2 * -(-2 * len(first) // 2)


def test_interrupted_second_round_gives_the_same_weights(
    tiny_coco: Callable[..., TinyCoco], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco = tiny_coco(tmp_path / "images")
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    values["train"] |= {"names_weight": 1.0, "second_round": 2.0, "epochs": 1, "ema": 0.5, "checkpoint_steps": 1}
    recipe = parse_recipe(values, "test")
    run_recipe(recipe, tmp_path / "uninterrupted", until="train")

    def dies(folder: Path, step: int, *rest: Any) -> None:
        save_checkpoint(folder, step, *rest)
        if "second_round" in folder.parts and step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(ezsd.training.loop, "save_checkpoint", dies)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "stopped", until="train")
    monkeypatch.undo()
    run_recipe(recipe, tmp_path / "stopped", until="train")
    first, second = (read_tensors(RunFolder(tmp_path / name).model / "model.safetensors")[0]
                     for name in ("uninterrupted", "stopped"))  # fmt: skip
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
