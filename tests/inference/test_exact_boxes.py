"""What the box head says on exact boxes of objects and on background boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ezsd.data.formats.coco import load_images
from ezsd.detector.model_folder import load_model
from ezsd.detector.rcnn import Rcnn
from ezsd.inference import exact_boxes
from ezsd.inference.exact_boxes import background_boxes, false_alarm_metrics, measure_exact_boxes
from ezsd.run_metrics import ExactBoxCounts
from tiny import CROWD_IMAGE, SPLIT, TinyCoco
from tiny_run import make_model_folder

BASE = len(SPLIT.base)


def _says(monkeypatch: pytest.MonkeyPatch, label: int, on_background: int) -> list[int]:
    """Let the model predict ``label`` on the first box of an image, ``on_background`` on all others; count images."""
    seen: list[int] = []

    def classify(self: Rcnn, images: Sequence[Tensor], boxes: Sequence[Tensor], text: Tensor) -> Tensor:
        seen.append(len(images))
        said = torch.full((len(boxes[0]),), on_background)
        said[:1] = label
        return torch.nn.functional.one_hot(said, len(text) + 1).float()

    monkeypatch.setattr(Rcnn, "classify_boxes", classify)
    return seen


def test_predictions_on_exact_boxes_are_counted_for_base_and_novel_objects(
    tmp_path: Path, tiny_coco: Callable[..., TinyCoco], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load_images(tiny_coco(tmp_path / "data").part(), SPLIT.names)
    model, _, text = load_model(make_model_folder(tmp_path / "model"))
    first = [int(image.labels[~image.crowd][0]) for image in images if bool((~image.crowd).any())]
    labels = torch.cat([image.labels[~image.crowd] for image in images])
    _says(monkeypatch, 1, 0)
    found = measure_exact_boxes(model, images, text, BASE)
    base, novel = found["exact_boxes"].base, found["exact_boxes"].novel
    total = int((labels <= BASE).sum())
    wrong = sum(label == 2 for label in first)
    right, background = first.count(1), total - wrong - first.count(1)
    assert base == ExactBoxCounts(
        right=right, other_name=wrong, background=background, called_background=background / total
    )
    assert (novel.right, novel.other_name) == (0, sum(label > BASE for label in first))
    assert found["false_alarms"].boxes > 50
    assert found["false_alarms"].novel == 0


def test_at_most_so_many_images_are_read(
    tmp_path: Path, tiny_coco: Callable[..., TinyCoco], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load_images(tiny_coco(tmp_path / "data").part(), SPLIT.names)
    model, _, text = load_model(make_model_folder(tmp_path / "model"))
    monkeypatch.setattr(exact_boxes, "_IMAGES", 3)
    seen = _says(monkeypatch, 1, 0)
    found = measure_exact_boxes(model, images, text, BASE)
    assert len(seen) == 3
    sides = (found["exact_boxes"].base, found["exact_boxes"].novel)
    counted = sum(side.right + side.other_name + side.background for side in sides)
    assert counted == sum(int((~images[place].crowd).sum()) for place in (0, 4, 7))  # evenly spaced


def test_images_without_objects_are_not_measured(tmp_path: Path, tiny_coco: Callable[..., TinyCoco]) -> None:
    images = load_images(tiny_coco(tmp_path / "data").part(), SPLIT.names)
    model, _, text = load_model(make_model_folder(tmp_path / "model"))
    empty = replace(images, images=[image for image in images if not len(image.boxes)])
    assert len(empty) == 1
    assert measure_exact_boxes(model, empty, text, BASE) == {}


def test_background_boxes_are_in_the_image_and_touch_no_box(tmp_path: Path, tiny_coco: Callable[..., TinyCoco]) -> None:
    images = load_images(tiny_coco(tmp_path / "data").part(), SPLIT.names)
    sides = torch.tensor([[8.0, 16.0], [20.0, 10.0], [500.0, 4.0]])
    assert any(image.image_id == CROWD_IMAGE for image in images)
    for image in images:
        boxes = background_boxes(image, sides, torch.Generator().manual_seed(1))
        assert 0 < len(boxes) <= 20
        assert torch.equal(boxes, background_boxes(image, sides, torch.Generator().manual_seed(1)))
        assert (box_iou(boxes, image.boxes) == 0).all()
        assert (boxes >= 0).all() and (boxes <= torch.tensor([image.width, image.height] * 2) + 1e-3).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_false_alarms_are_shares_of_boxes_with_a_sure_name() -> None:
    background_base_novel = torch.tensor([[0.4, 0.3, 0.1, 0.2], [0.2, 0.29, 0.01, 0.5], [0.9, 0.05, 0.02, 0.03]])
    alarms = false_alarm_metrics(background_base_novel.double(), base=1)
    assert (alarms.boxes, alarms.base, alarms.novel) == (3, pytest.approx(1 / 3), pytest.approx(1 / 3))
    nothing = false_alarm_metrics(torch.zeros(0, 4), base=1)
    assert (nothing.boxes, nothing.base, nothing.novel) == (0, None, None)
