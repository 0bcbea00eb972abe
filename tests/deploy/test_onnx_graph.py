"""The graph that is exported computes what the detector computes, for every option of the detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ezsd.deploy.onnx_graph import DetectionGraph
from ezsd.detector.model_folder import load_model
from ezsd.detector.rcnn import batch_images
from tiny_run import EMBEDDING_DIM, make_model_folder

OPTIONS: dict[str, dict[str, Any]] = {
    "as published": {},
    "hard NMS that removes boxes": {"nms": 0.3, "detections_per_image": 40},
    "soft-NMS": {"soft_nms": 0.3, "detections_per_image": 50},
    "predicted quality": {"box_quality": True, "quality_power": 0.25},
    "objectness in the score": {"objectness_power": 0.5, "box_quality": True, "soft_nms": 0.5},
    "one box per region": {"semantic_top_k": 1},
    "no semantic regression": {"semantic_regression": False},
    "four levels and several anchors": {"anchor_sides": (16, 32, 48, 96), "anchor_scales": (0.7, 1.4)},
    "score threshold": {"score_threshold": 0.2},
    "few proposals": {"rpn_proposals": 7},
    "more detections than candidates": {"detections_per_image": 1500, "score_threshold": 0.0},
    "dynamic padding of another backbone": {"backbone": "mobilenetv4_conv_small"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_same_detections_as_the_detector(name: str, tmp_path: Path) -> None:
    _compare(make_model_folder(tmp_path, **OPTIONS[name]), vocabulary=5)


def test_same_masks_as_the_detector(tmp_path: Path) -> None:
    _compare(make_model_folder(tmp_path, masks=True, detections_per_image=30), vocabulary=3)


@pytest.mark.parametrize("vocabulary", [1, 2, 40])
def test_any_number_of_names(vocabulary: int, tmp_path: Path) -> None:
    _compare(make_model_folder(tmp_path, soft_nms=0.3), vocabulary)


def test_names_with_several_phrases(tmp_path: Path) -> None:
    phrases = [[0, 0, 0], [1, 2, 3], [4, 5, 4]]
    owners = torch.tensor([0, 1, 1, 1, 2, 2])
    _compare(make_model_folder(tmp_path), vocabulary=6, names={"phrases": torch.tensor(phrases)}, owners=owners)


def test_images_of_any_size_in_a_batch(tmp_path: Path) -> None:
    model, _, _ = load_model(make_model_folder(tmp_path))
    found = DetectionGraph(model)(
        torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([[1, 32], [32, 2]]), torch.eye(EMBEDDING_DIM)[:2]
    )
    limits = torch.tensor([[32.0, 1, 32, 1], [2, 32, 2, 32]])
    assert (found[0] <= limits[:, None]).all() and found[0].isfinite().all()


def _compare(
    folder: Path, vocabulary: int, names: dict[str, torch.Tensor] | None = None, owners: torch.Tensor | None = None
) -> None:
    model, _, _ = load_model(folder)
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in ((96, 120), (90, 128))
    ]
    text = F.normalize(torch.randn(vocabulary, EMBEDDING_DIM, generator=generator), dim=1)
    features = batch_images(images)
    batch, sizes = (features.tensors * 255).round().byte(), torch.tensor(features.image_sizes)
    with torch.inference_mode():
        expected = model.detect(images, text, owners)
        boxes, labels, scores, *masks = DetectionGraph(model)(batch, sizes, text, **(names or {}))
    for place, wanted in enumerate(expected):
        count = len(wanted.boxes)
        assert count > 3
        assert (labels[place] >= 0).sum() == count
        assert torch.equal(labels[place, :count], wanted.labels)
        assert torch.allclose(scores[place, :count], wanted.scores, atol=1e-5)
        assert torch.allclose(boxes[place, :count], wanted.boxes, atol=1e-3)
        if masks:
            assert masks[0].shape[1:] == (30, 28, 28)
            assert masks[0][place, :count].std() > 0
