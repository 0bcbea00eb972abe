"""Scores that take the teacher's reading of each detection into account."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ezsd.detector.detections import Detections
from ezsd.detector.model_folder import load_model
from ezsd.detector.rcnn import Rcnn
from ezsd.inference import second_opinion
from ezsd.inference.detector import Detector
from ezsd.inference.second_opinion import SecondOpinion
from tiny import SPLIT
from tiny_run import make_model_of_run
from tiny_teacher import ColourTeacher

BASE = len(SPLIT.base)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rcnn, Tensor]:
    folder = make_model_of_run(tmp_path_factory.mktemp("run"))
    model, _, text = load_model(folder)
    return folder, model, text


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randint(0, 256, (3, 70, 100), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def asked(model: Rcnn, text: Tensor, powers: tuple[float, float], reading: Any = "dense") -> SecondOpinion:
    return SecondOpinion(model, ColourTeacher(), reading, powers, text[:BASE], (64,))


def rows(found: Detections) -> dict[tuple[float, ...], float]:
    """Return the score of each detection by its box and label."""
    keys = torch.cat([found.boxes, found.labels[:, None].float()], dim=1).tolist()
    return dict(zip(map(tuple, keys), found.scores.tolist(), strict=True))


def test_scores_are_the_weighted_geometric_mean(loaded: tuple[Path, Rcnn, Tensor], image: Tensor) -> None:
    _, model, text = loaded
    (plain,), (rescored,) = model.detect([image], text), asked(model, text, (0.2, 0.5)).detect([image], text)
    assert (rescored.scores.diff() <= 0).all() and len(plain.boxes) > 10
    teacher = ColourTeacher()
    said = (teacher.logit_scale * teacher.dense_embeddings(image / 255, plain.boxes, (64,)) @ text.T).softmax(1)
    new = rows(rescored)
    for key, score, label, probabilities in zip(rows(plain), plain.scores, plain.labels, said, strict=True):
        power = 0.2 if label < BASE else 0.5
        assert new[key] == pytest.approx(float(score ** (1 - power) * probabilities[label] ** power), rel=1e-3)


def test_without_power_nothing_changes(loaded: tuple[Path, Rcnn, Tensor], image: Tensor) -> None:
    _, model, text = loaded
    (plain,), (rescored,) = model.detect([image], text), asked(model, text, (0.0, 0.0)).detect([image], text)
    assert torch.equal(plain.boxes, rescored.boxes) and torch.allclose(plain.scores, rescored.scores)


def test_detections_that_are_not_cropped_stay_behind(
    loaded: tuple[Path, Rcnn, Tensor], image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model, text = loaded
    monkeypatch.setattr(second_opinion, "MOST_CROPS", 5)
    (plain,), (rescored,) = model.detect([image], text), asked(model, text, (1.0, 1.0), "crops").detect([image], text)
    assert set(rows(plain)) == set(rows(rescored))
    assert set(map(tuple, rescored.boxes[:5].tolist())) == set(map(tuple, plain.boxes[:5].tolist()))
    assert torch.equal(rescored.boxes[5:], plain.boxes[5:])


def test_the_user_can_ask_for_it(loaded: tuple[Path, Rcnn, Tensor], image: Tensor) -> None:
    plain, rescored = Detector.load(loaded[0], "cpu"), Detector.load(loaded[0], "cpu", second_opinion="crops")
    assert plain(image, threshold=0.0).confidence.tolist() != rescored(image, threshold=0.0).confidence.tolist()
    assert rescored(image, ["a new name"], threshold=0.0)["class_name"].tolist()[:1] == ["a new name"]
