"""Matching of detections to objects (found, missed, false), and the cards that are drawn."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ezsd.data.samples import AnnotatedImage, ImageSet
from ezsd.data.target_store import Regions
from ezsd.inference.outputs import encode_mask
from ezsd.report.gallery import detection_card, proposal_card
from ezsd.report.matching import Outcome, hardest, judge, met_rows, novel_rows, worst_and_best

NAMES = ("cat", "dog", "yak")  # yak is novel
BASE = 2


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    path = tmp_path / "image.jpg"
    Image.new("RGB", (200, 100), (40, 90, 140)).save(path)
    return path


def _image(
    path: Path, boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None, image_id: int = 1
) -> AnnotatedImage:
    crowds = torch.tensor(crowd or [False] * len(boxes), dtype=torch.bool)
    corners = torch.tensor(boxes).reshape(-1, 4)
    return AnnotatedImage(image_id, path, 200, 100, corners, torch.tensor(labels).long(), crowds, None)


def _found(label: int, box: list[float], score: float = 0.9) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {"image_id": 1, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}


def test_object_is_found_once_by_the_best_detection_of_its_name(image_file: Path) -> None:
    image = _image(image_file, [[0, 0, 50, 50], [100, 0, 150, 50]], [1, 3])
    outcome = judge(image, [
        _found(1, [0, 0, 50, 48], 0.8), _found(1, [0, 0, 50, 50], 0.95),  # two detections of the same object
        _found(2, [100, 0, 150, 50]),  # correct box, wrong name
    ])  # fmt: skip
    assert [entry["score"] for entry in outcome.detections] == [0.95, 0.9, 0.8]
    assert outcome.found == (True, False, False)
    assert outcome.missed == (1,)
    assert outcome.failures(BASE) == 1 + 1 + 2  # dog, second cat, and the novel yak twice


def test_detection_with_low_overlap_is_false(image_file: Path) -> None:
    outcome = judge(_image(image_file, [[0, 0, 50, 50]], [1]), [_found(1, [26, 0, 76, 50])])
    assert (outcome.found, outcome.missed) == ((False,), (0,))


def test_crowd_is_neither_missed_nor_found_and_ignores_detections_of_its_name(image_file: Path) -> None:
    image = _image(image_file, [[0, 0, 100, 100]], [1], [True])
    outcome = judge(image, [_found(1, [10, 10, 30, 30]), _found(2, [10, 10, 30, 30])])
    assert [entry["category_id"] for entry in outcome.detections] == [2]
    assert (outcome.found, outcome.missed) == ((False,), ())


def test_crowd_ignores_detections_that_are_half_inside(image_file: Path) -> None:
    image = _image(image_file, [[0, 0, 100, 100]], [1], [True])
    half, less = [90.0, 0, 110, 20], [92.0, 40, 112, 60]
    assert [entry["bbox"][0] for entry in judge(image, [_found(1, half), _found(1, less)]).detections] == [92]


def test_worst_images_come_first_then_the_best_of_the_others(image_file: Path) -> None:
    def outcome(image_id: int, hits: int, missed: int) -> Outcome:
        boxes = [[10.0 * place, 0, 10.0 * place + 8, 8] for place in range(hits + missed)]
        image = _image(image_file, boxes, [1] * len(boxes), image_id=image_id)
        return judge(image, [_found(1, box) for box in boxes[:hits]])

    outcomes = [outcome(1, 1, 0), outcome(2, 0, 3), outcome(3, 5, 0), outcome(4, 1, 2), outcome(5, 0, 0)]
    worst, best = worst_and_best(outcomes, BASE, worst=2, best=2)
    assert [each.image.image_id for each in worst] == [2, 4]
    assert [each.image.image_id for each in best] == [3, 1]


def test_an_overlap_equal_to_the_threshold_counts(image_file: Path) -> None:
    image = _image(image_file, [[0, 0, 50, 50]], [1])
    entry = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 25], "score": 0.01}  # IoU 0.5
    assert judge(image, [entry]).found == (True,)
    assert met_rows(image, _regions([[0, 0, 50, 25]], [1]), [0]) == [True]
    assert met_rows(image, _regions([], []), [0]) == [False]


def test_best_images_are_sorted_by_found_objects_per_failure(image_file: Path) -> None:
    def outcome(image_id: int, label: int, hits: int, missed: int) -> Outcome:
        boxes = [[10.0 * place, 0, 10.0 * place + 8, 8] for place in range(hits + missed)]
        image = _image(image_file, boxes, [label] * hits + [1] * missed, image_id=image_id)
        return judge(image, [_found(label, box) for box in boxes[:hits]])

    # found / (1 + failures), a novel object counts twice: 3 / 2, 2 / 1, 1 / 1, 5 / 4
    outcomes = [outcome(1, 1, 3, 1), outcome(2, 3, 1, 0), outcome(3, 2, 1, 0), outcome(4, 1, 5, 3)]
    _, best = worst_and_best(outcomes, BASE, worst=0, best=4)
    assert [each.image.image_id for each in best] == [2, 1, 4, 3]


def test_card_shows_ground_truth_and_detections_as_text_and_marks(image_file: Path) -> None:
    image = _image(image_file, [[0, 0, 50, 50], [100, 0, 150, 50]], [1, 3])
    card = detection_card(judge(image, [_found(1, [0, 0, 50, 50]), _found(3, [0, 50, 20, 70], 0.5)]), NAMES, BASE)
    assert dict(card.notes) == {"found": "cat (0.90)", "missed": "yak", "false": "yak (0.50)"}
    truth, detections = card.panels
    assert {mark.kind: mark.text for mark in truth.marks} == {"base": "cat", "novel": "yak"}
    expected = {mark.kind: mark.text for mark in detections.marks}
    assert expected == {"base": "cat 0.90", "missed": "yak", "false": "yak 0.50"}
    assert "Missed: yak" in detections.described
    content = base64.b64decode(card.image.removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(content)).size == (200, 100)


def test_masks_are_drawn_as_outlines(image_file: Path) -> None:
    mask = np.zeros((100, 200), np.uint8)
    mask[10:40, 10:40] = 1
    image = _image(image_file, [[10, 10, 40, 40]], [1])
    entry = {**_found(1, [10, 10, 40, 40]), "segmentation": encode_mask(mask)}
    card = detection_card(judge(image, [entry]), NAMES, BASE)
    outline = card.panels[1].marks[0].outline
    assert outline.startswith("M") and outline.endswith("Z") and "10 10" in outline
    assert card.panels[0].marks[0].outline == ""


def test_many_false_detections_are_counted_and_the_highest_scoring_drawn(image_file: Path) -> None:
    many = [_found(2, [place, 0, place + 5, 5], 0.5 + place / 1000) for place in range(60)]
    card = detection_card(judge(_image(image_file, [], []), many), NAMES, BASE)
    assert len(card.panels[1].marks) == 10
    assert "of 60 false" in card.panels[1].title
    assert dict(card.notes)["false"] == "dog \N{MULTIPLICATION SIGN} 60 (up to 0.56)"


def test_labels_do_not_overlap_and_stay_in_the_image(image_file: Path) -> None:
    boxes = [[1.0 * place, 40, 1.0 * place + 30, 60] for place in range(60)] + [[190, 0, 200, 10]]
    card = detection_card(judge(_image(image_file, boxes, [1] * len(boxes)), []), NAMES, BASE)
    places = [mark.label for mark in card.panels[0].marks if mark.label]
    assert 3 < len(places) < len(boxes)
    assert all(0 <= x < 200 and 0 < y <= 100 for x, y in places)
    width = 3 * card.text_size / 2
    assert all(abs(x - u) >= width or abs(y - v) >= card.text_size
               for place, (x, y) in enumerate(places) for u, v in places[:place])  # fmt: skip


def _regions(boxes: list[list[float]], labels: list[int], base: int = 0) -> Regions:
    count = len(boxes)
    is_base: Tensor = torch.arange(count) >= count - base
    return Regions(torch.tensor(boxes).reshape(-1, 4), torch.ones(count, 2).half(), torch.full((count,), 0.5),
                   torch.ones(count), torch.tensor(labels), is_base)  # fmt: skip


def test_proposals_have_one_color_per_name_and_count_covered_objects(image_file: Path) -> None:
    image = _image(image_file, [[100, 0, 150, 50]], [3])
    regions = _regions([[100, 0, 150, 48], [0, 0, 20, 20], [50, 50, 70, 70], [0, 0, 9, 9]], [1, 2, 1, 2], base=1)
    card = proposal_card(image, regions, NAMES, BASE, shown=12)
    marks = card.panels[1].marks
    assert len(marks) == 3  # base boxes are not proposals
    hues = {mark.text.split()[0]: mark.hue for mark in marks}
    assert hues["cat"] != hues["dog"]
    assert dict(card.notes)["novel objects"] == "yak: 1 of 1 covered by a proposal"
    few = proposal_card(image, regions, NAMES, BASE, shown=1)
    assert len(few.panels[1].marks) == 1


def test_hardest_sorts_images_by_recall_of_novel_objects(image_file: Path) -> None:
    images = [
        _image(image_file, [[100, 0, 150, 50]], [label], image_id=place) for place, label in enumerate((3, 3, 1, 3))
    ]
    good, bad = _regions([[100, 0, 150, 50]], [3]), _regions([[0, 0, 20, 20]], [3])
    chosen = hardest(ImageSet(images, NAMES, False), {0: good, 1: bad, 2: bad}, BASE, shown=5, count=5)
    assert [image.image_id for image in chosen] == [1, 0]


def test_hardest_breaks_ties_by_the_number_of_novel_objects(image_file: Path) -> None:
    rows = [[20.0 * place, 0, 20.0 * place + 15, 15] for place in range(5)]

    def image(image_id: int, objects: int) -> AnnotatedImage:
        return _image(image_file, rows[:objects], [3] * objects, image_id=image_id)

    images = [image(1, 2), image(2, 5), image(3, 1), image(4, 1), image(5, 4)]
    met = {1: 1, 2: 2, 3: 0, 4: 0, 5: 2}  # shares 0.5, 0.4, 0, 0, 0.5
    regions = {key: _regions([*rows[:count], [150, 50, 190, 90]], [3] * (count + 1)) for key, count in met.items()}
    chosen = hardest(ImageSet(images, NAMES, False), regions, BASE, shown=9, count=5)
    assert [each.image_id for each in chosen] == [3, 4, 2, 5, 1]


def test_novel_rows_exclude_base_labels_and_crowds(image_file: Path) -> None:
    image = _image(image_file, [[0, 0, 9, 9]] * 4, [1, 2, 3, 3], [False, False, True, False])
    assert novel_rows(image, BASE) == [3]
