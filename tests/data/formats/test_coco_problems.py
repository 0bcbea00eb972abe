"""Edge cases of COCO files, and the content of error messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ezsd.data.formats.coco import coco_ground_truth, load_images, validate_part
from ezsd.data.samples import ImageSet, read_image
from ezsd.errors import DataError
from tiny import SPLIT, TinyCoco


@pytest.fixture
def tiny(tmp_path: Path, tiny_coco: Callable[[Path], TinyCoco]) -> TinyCoco:
    return tiny_coco(tmp_path)


def _first(tiny: TinyCoco) -> dict[str, Any]:
    entry: dict[str, Any] = next(
        entry for entry in tiny.content["annotations"] if (entry["image_id"], entry["category_id"]) == (11, 3)
    )
    return entry


def _problems(tiny: TinyCoco, names: tuple[str, ...] = SPLIT.base, required: tuple[str, ...] = ()) -> list[str]:
    tiny.save()
    found = validate_part(tiny.part(), names, required)
    with pytest.raises(DataError) as raised:
        load_images(tiny.part(), names, required=required)
    assert list(raised.value.problems[: len(found)]) == found
    return found


@pytest.mark.parametrize("bbox", [[1, 2, 3], [500, 10, 20, 12], [10, 10, 0, 12]])
def test_an_error_names_the_annotation_its_category_its_image_and_its_bbox(tiny: TinyCoco, bbox: list[int]) -> None:
    entry = _first(tiny)
    entry |= {"bbox": bbox, "id": 987654}
    (problem,) = _problems(tiny)
    for part in ("annotation 987654", "circle", " 11)", str(bbox), str(tiny.annotations)):
        assert part in problem
    assert bbox[0] != 500 or "96 x 64 pixels" in problem


def test_an_error_shows_the_annotation_of_an_unknown_category(tiny: TinyCoco) -> None:
    tiny.content["annotations"].append({"id": 987654, "category_id": 99})
    (problem,) = _problems(tiny)
    assert f"annotations[{len(tiny.content['annotations']) - 1}]" in problem and "987654" in problem


@pytest.mark.parametrize("change", [{"width": 0}, {"height": 0}, {"width": -1}, {"file_name": ""}, {"file_name": 5}])
def test_an_error_names_the_image_entry(tiny: TinyCoco, change: dict[str, Any]) -> None:
    tiny.content["images"].append({"id": 99, "file_name": "000004.jpg", "width": 64, "height": 96, **change})
    (problem,) = _problems(tiny)
    assert "images[8]" in problem and "'id': 99" in problem


def test_twenty_problems_are_all_listed(tiny: TinyCoco) -> None:
    tiny.content["annotations"] += [{"id": 5000 + place, "category_id": 99} for place in range(20)]
    tiny.save()
    with pytest.raises(DataError) as raised:
        load_images(tiny.part(), SPLIT.base)
    assert len(raised.value.problems) == 21 and not any(" more" in problem for problem in raised.value.problems)


def test_an_error_names_the_duplicate_image_id(tiny: TinyCoco) -> None:
    tiny.content["images"].append(dict(tiny.content["images"][2]))
    (problem,) = _problems(tiny)
    assert f"image id {tiny.content['images'][2]['id']}" in problem


def test_the_error_for_a_changed_image_shows_both_sizes(tiny: TinyCoco) -> None:
    image = load_images(tiny.part(), SPLIT.base).images[0]
    Image.new("RGB", (50, 70)).save(image.path)
    with pytest.raises(DataError, match=r"50 x 70 pixels, expected 64 x 96"):
        read_image(image)


def test_an_image_of_one_pixel_is_accepted(tiny: TinyCoco) -> None:
    Image.new("RGB", (1, 1)).save(tiny.images / "dot.png")
    tiny.content["images"].append({"id": 99, "file_name": "dot.png", "width": 1, "height": 1})
    tiny.save()
    assert load_images(tiny.part(), SPLIT.base)[-1].image_id == 99


@pytest.mark.parametrize("counts, good", [("PP6", True), ("PP6o", False)])
def test_a_truncated_compressed_rle_is_invalid(tiny: TinyCoco, counts: str, good: bool) -> None:
    _first(tiny)["segmentation"] = {"size": [64, 96], "counts": counts}  # PP6 encodes a single run of 6144
    tiny.save()
    assert len(validate_part(tiny.part(), SPLIT.base)) == int(not good)


@pytest.mark.parametrize(
    "area, kept", [(0.5, True), (0, False), (-3.0, False), (float("inf"), False), (float("nan"), False), ("9", False)]
)
def test_an_area_that_is_not_a_positive_number_is_replaced_by_the_box_area(
    tiny: TinyCoco, area: Any, kept: bool
) -> None:
    entry = _first(tiny)
    entry["area"] = area
    tiny.save()
    image = next(image for image in load_images(tiny.part(), ("circle",)) if image.image_id == 11)
    assert image.areas is not None
    expected = area if kept else entry["bbox"][2] * entry["bbox"][3]
    assert float(image.areas[0]) == pytest.approx(expected, rel=1e-4)


def test_ground_truth_without_areas_uses_the_box_areas(tiny: TinyCoco) -> None:
    images = load_images(tiny.part(), SPLIT.base)
    bare = ImageSet([replace(image, areas=None) for image in images], images.names, images.has_masks)
    for entry in coco_ground_truth(bare)["annotations"]:
        assert entry["area"] == pytest.approx(entry["bbox"][2] * entry["bbox"][3], rel=1e-5)


def test_data_without_boxes_of_the_requested_names_loads(tiny: TinyCoco) -> None:
    images = load_images(tiny.part(), ("zeppelin",))
    for image in images:
        assert image.boxes.shape == (0, 4) and image.crowd.dtype == torch.bool and image.labels.dtype == torch.int64


def test_a_missing_base_name_is_reported_even_without_a_similar_name(tiny: TinyCoco) -> None:
    (problem,) = _problems(tiny, ("circle", "zeppelin"), ("circle", "zeppelin"))
    assert 'no category "zeppelin"' in problem and problem.endswith("annotations.")
    (problem,) = _problems(tiny, ("circ", "square"), ("circ", "square"))
    assert problem.endswith('Did you mean "circle"?')


@pytest.mark.parametrize("category", ["tv_set", "TV set", " tv set"])
def test_names_that_differ_only_in_case_underscores_or_spaces_are_reported(tiny: TinyCoco, category: str) -> None:
    tiny.content["categories"][-1]["name"] = category
    (problem,) = _problems(tiny, ("circle", "tv set"))
    assert f'Did you mean "{category}"?' in problem
