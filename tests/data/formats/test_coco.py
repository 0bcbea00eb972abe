"""Loading images and boxes from COCO files, valid and invalid."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as reference
from pycocotools.coco import COCO

from ezsd.data.categories import load_split
from ezsd.data.formats.coco import coco_ground_truth, load_images, read_part
from ezsd.data.formats.segmentations import box_around
from ezsd.data.samples import AnnotatedImage, ImageSet, have_mask, masks_of, read_image, segmentations_of
from ezsd.errors import DataError
from ezsd.recipe import Part
from tiny import CATEGORIES, COMPRESSED_RLE_IMAGE, CROWD_IMAGE, EMPTY_IMAGE, SIZES, SPLIT, TinyCoco, make_tiny_coco

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # raised by pycocotools


@pytest.fixture
def tiny(tmp_path: Path, tiny_coco: Callable[[Path], TinyCoco]) -> TinyCoco:
    return tiny_coco(tmp_path)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> TinyCoco:
    return make_tiny_coco(tmp_path_factory.mktemp("tiny"))


def _problems(tiny: TinyCoco, **options: Any) -> tuple[str, ...]:
    tiny.save()
    with pytest.raises(DataError) as raised:
        load_images(tiny.part(), SPLIT.base, **options)
    return raised.value.problems


def _all_problems(part: Part, names: tuple[str, ...], required: tuple[str, ...] = ()) -> list[str]:
    """Return every problem, those that are left out of the message included."""
    found = read_part(part, names, required, decode=True)
    return [f"{part.annotations}: {problem}" for problem in [*found.of_file, *found.of_items]]


def _annotation(tiny: TinyCoco, name: str) -> dict[str, Any]:
    return next(entry for entry in tiny.content["annotations"] if CATEGORIES[entry["category_id"]] == name)


# Loading


def test_images_are_sorted_by_id_with_boxes_in_xyxy_format(tiny: TinyCoco) -> None:
    images = load_images(tiny.part(), SPLIT.names, required=SPLIT.base)

    assert images.names == ("circle", "square", "triangle", "bar") and images.skipped == ()
    assert [image.image_id for image in images] == sorted(SIZES)
    for image in images:
        rows = [
            entry
            for entry in tiny.content["annotations"]
            if entry["image_id"] == image.image_id and CATEGORIES[entry["category_id"]] in SPLIT.names
        ]
        assert (image.width, image.height) == SIZES[image.image_id]
        assert image.path == tiny.images / f"{image.image_id:06d}.jpg"
        assert [images.names[label - 1] for label in image.labels] == [CATEGORIES[r["category_id"]] for r in rows]
        expected = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]
        assert image.boxes.dtype == torch.float32 and image.labels.dtype == torch.int64
        assert torch.allclose(image.boxes, torch.tensor(expected).reshape(-1, 4))
        assert image.crowd.tolist() == [bool(row["iscrowd"]) for row in rows]
        assert image.areas is not None
        assert torch.allclose(image.areas, torch.tensor([float(row["area"]) for row in rows]))
        assert not rows or segmentations_of(image) == [row["segmentation"] for row in rows]


def test_images_without_boxes_and_crowd_boxes_are_kept(tiny: TinyCoco) -> None:
    images = {image.image_id: image for image in load_images(tiny.part(), SPLIT.base).images}
    empty = images[EMPTY_IMAGE]
    assert empty.boxes.shape == (0, 4) and empty.labels.shape == empty.crowd.shape == (0,)
    assert masks_of(empty).shape == (0, empty.height, empty.width)
    assert images[CROWD_IMAGE].crowd.tolist() == [False, True]


def test_read_image_returns_pixels_of_the_annotated_size(tiny: TinyCoco) -> None:
    image = load_images(tiny.part(), SPLIT.base).images[0]
    assert read_image(image).shape == (3, image.height, image.width)
    assert torch.equal(read_image(image), read_image(image.path))
    (tiny.images / image.path.name).write_bytes((tiny.images / "000025.jpg").read_bytes())
    with pytest.raises(DataError, match="has changed"):
        read_image(image)


def test_limit_uses_the_first_images_by_id_and_ignores_the_others(tiny: TinyCoco) -> None:
    for image_id in sorted(SIZES)[3:]:
        (tiny.images / f"{image_id:06d}.jpg").unlink()
    tiny.content["annotations"][0]["bbox"] = ["nonsense"]
    tiny.content["annotations"][0]["image_id"] = 57
    tiny.save()
    images = load_images(tiny.part(limit=3), SPLIT.base)
    assert [image.image_id for image in images] == [4, 8, 11]


def test_lvis_images_are_found_by_their_coco_url(tiny: TinyCoco) -> None:
    (tiny.images / "train2017").mkdir()
    for entry in tiny.content["images"]:
        name = entry.pop("file_name")
        entry["coco_url"] = f"http://images.cocodataset.org/train2017/{name}"
        (tiny.images / name).rename(tiny.images / "train2017" / name)
    tiny.save()
    assert len(load_images(tiny.part(), SPLIT.base).images) == len(SIZES)


# Masks


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, "6"]],
        {"size": [5, 5], "counts": [25]},
        {"size": [64, 96], "counts": [25]},
        {"size": [64, 96], "counts": "=1"},
        {"size": [64, 96], "counts": "oooo"},
        {"size": [64, 96], "counts": "é"},
        {"size": [64, 96], "counts": [-1, 6145]},
        {"size": [64, 96]},
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, 6, 7]],
        "polygon",
    ],
)
def test_a_broken_segmentation_costs_the_mask_of_its_box_alone(segmentation: Any, tiny: TinyCoco) -> None:
    before = load_images(tiny.part(), SPLIT.base)
    broken = _annotation(tiny, "circle")
    broken["segmentation"] = segmentation
    tiny.save()
    after = load_images(tiny.part(), SPLIT.base)
    boxes = sum(len(image.boxes) for image in after)
    notes = " ".join(after.notes)
    assert f"segmentations cannot be read (the first is that of annotation {broken['id']}" in notes
    assert f"1 of {boxes} boxes has no mask. Masks are learned and measured from the others" in notes
    assert after.has_masks and [int((~have_mask(image)).sum()) for image in after].count(1) == 1
    assert [image.boxes.tolist() for image in after] == [image.boxes.tolist() for image in before]
    truth = coco_ground_truth(after)["annotations"]
    assert [entry["bbox"] for entry in truth if "segmentation" not in entry] == [broken["bbox"]]


@pytest.mark.parametrize("segmentation", [[], [[]], [[], []], None, float("nan"), {}, ""])
def test_an_empty_segmentation_is_none(segmentation: Any, tiny: TinyCoco) -> None:
    for entry in tiny.content["annotations"]:
        entry["segmentation"] = segmentation
    tiny.save()
    images = load_images(tiny.part(), SPLIT.base)
    assert not images.has_masks and not any("segmentation" in note for note in images.notes)


def test_a_polygon_without_its_list_is_a_mask(tiny: TinyCoco) -> None:
    before = load_images(tiny.part(), SPLIT.base)
    for entry in tiny.content["annotations"]:
        if isinstance(entry["segmentation"], list):
            (entry["segmentation"],) = entry["segmentation"]
    tiny.save()
    after = load_images(tiny.part(), SPLIT.base)
    assert after.has_masks and _plain(after) == _plain(before)


def test_masks_match_pycocotools(tiny: TinyCoco) -> None:
    images = load_images(tiny.part(), SPLIT.names)
    assert images.has_masks
    theirs = COCO(str(tiny.annotations))
    kinds = set()
    for image in images:
        wanted = theirs.getCatIds(catNms=list(SPLIT.names))
        rows = theirs.loadAnns(theirs.getAnnIds(imgIds=image.image_id, catIds=wanted))
        masks = masks_of(image)
        assert masks.dtype == torch.uint8 and masks.shape == (len(rows), image.height, image.width)
        for mask, row in zip(masks, rows, strict=True):
            kinds.add(type(row["segmentation"].get("counts", "") if isinstance(row["segmentation"], dict) else []))
            assert np.array_equal(mask.numpy(), theirs.annToMask(row))
    assert kinds == {str, list}
    assert any(image.image_id == COMPRESSED_RLE_IMAGE for image in images)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_compressed_masks_of_any_shape_are_decoded(
    untouched: TinyCoco, height: int, width: int, seed: int, share: float
) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    canvas = np.zeros((96, 64), dtype=np.uint8, order="F")
    canvas[:height, :width] = mask
    encoded = reference.encode(canvas)
    content = copy.deepcopy(untouched.content)
    box = next(entry for entry in content["annotations"] if entry["image_id"] == 4 and entry["category_id"] in (3, 7))
    box["segmentation"] = {"size": [96, 64], "counts": encoded["counts"].decode()}
    path = untouched.annotations.with_name("masks.json")
    path.write_text(json.dumps(content))
    image = load_images(Part(images=untouched.images, annotations=path), SPLIT.base)[0]
    assert image.image_id == 4
    assert any(np.array_equal(found.numpy(), canvas) for found in masks_of(image))


@pytest.mark.parametrize("bbox", [None, [], "missing", [0, 0, 0, 0]])
def test_annotations_without_bbox_have_the_box_around_their_segmentation(tiny: TinyCoco, bbox: Any) -> None:
    theirs = COCO(str(tiny.annotations))
    entries = [entry for entry in tiny.content["annotations"] if entry["category_id"] in (3, 7)]
    expected = {}
    for entry in entries:
        expected[entry["id"]] = reference.toBbox(theirs.annToRLE(entry)).tolist()
        entry["bbox"] = bbox
        if bbox == "missing":
            del entry["bbox"]
    tiny.save()
    images = load_images(tiny.part(), SPLIT.base)
    for image in images:
        wanted = [expected[entry["id"]] for entry in entries if entry["image_id"] == image.image_id]
        sides = torch.cat([image.boxes[:, :2], image.boxes[:, 2:] - image.boxes[:, :2]], dim=1)
        assert torch.allclose(sides, torch.tensor(wanted).reshape(-1, 4), atol=1.01)
    (note,) = (note for note in images.notes if "no bbox" in note)
    assert note.startswith(f"{len(entries)} of ") and "the boxes around their segmentations are used" in note


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0, 1), st.booleans())
@settings(max_examples=100)
def test_the_box_around_an_rle_is_that_of_pycocotools(
    height: int, width: int, seed: int, share: float, compressed: bool
) -> None:
    mask = np.asfortranarray((np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8))
    encoded = reference.encode(mask)
    counts: Any = encoded["counts"].decode()
    if not compressed:
        flat = mask.ravel(order="F").tolist()
        counts = [0] if flat[0] else []
        counts += [len(list(group)) for _, group in itertools.groupby(flat)]
    box = box_around({"size": [height, width], "counts": counts})
    assert (list(box) == reference.toBbox(encoded).tolist()) if mask.any() else all(map(math.isnan, box))


def test_several_polygons_form_one_mask(tiny: TinyCoco) -> None:
    square = [2.0, 2.0, 10.0, 2.0, 10.0, 10.0, 2.0, 10.0]
    image = load_images(tiny.part(), ("circle",)).images[0]
    shifted = [value + 20 for value in square]
    two = AnnotatedImage(
        1,
        image.path,
        64,
        96,
        torch.tensor([[2.0, 2, 30, 30]]),
        torch.tensor([1]),
        torch.tensor([False]),
        [[square, shifted]],
    )
    encoded = reference.merge(reference.frPyObjects([square, shifted], 96, 64))
    assert np.array_equal(masks_of(two)[0].numpy(), reference.decode(encoded))


def test_masks_are_not_learned_if_most_boxes_have_none(tiny: TinyCoco) -> None:
    for entry in tiny.content["annotations"][2:]:
        entry["segmentation"] = []
    tiny.save()
    images = load_images(tiny.part(), SPLIT.base)
    assert not images.has_masks and all(image.segmentations is None for image in images)
    assert any("from none, because at least half of the boxes need one" in note for note in images.notes)
    with pytest.raises(ValueError, match="no segmentations"):
        masks_of(images[0])


def test_the_mask_of_a_crowd_without_segmentation_is_its_box(tiny: TinyCoco) -> None:
    crowd = next(entry for entry in tiny.content["annotations"] if entry["iscrowd"])
    crowd["segmentation"] = []
    tiny.save()
    images = load_images(tiny.part(), SPLIT.base)
    assert images.has_masks
    image = next(image for image in images if image.image_id == CROWD_IMAGE)
    expected = torch.zeros(image.height, image.width, dtype=torch.uint8)
    expected[40:64, 8:56] = 1
    assert torch.equal(masks_of(image)[1], expected)


@pytest.mark.real_data
def test_masks_of_real_images_match_pycocotools(shared_data: Path) -> None:
    part = Part(images=shared_data / "coco_masks/images", annotations=shared_data / "coco_masks/instances_val.json")
    split = load_split("coco_48_17")
    images = load_images(part, split.base, required=split.base)
    assert images.has_masks
    theirs = COCO(str(part.annotations))
    wanted = theirs.getCatIds(catNms=list(split.base))
    checked = 0
    for image in images[:30]:
        for mask, row in zip(masks_of(image), theirs.loadAnns(theirs.getAnnIds(image.image_id, wanted)), strict=True):
            if row["segmentation"]:
                assert np.array_equal(mask.numpy(), theirs.annToMask(row))
                checked += 1
    assert checked > 50


# Ground truth for the evaluator


def test_ground_truth_survives_a_round_trip_through_a_file(tiny: TinyCoco, tmp_path: Path) -> None:
    images = load_images(tiny.part(), SPLIT.names)
    truth = coco_ground_truth(images)

    assert [entry["id"] for entry in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
    assert [(entry["id"], entry["name"]) for entry in truth["categories"]] == list(enumerate(images.names, start=1))
    names = {image.image_id: image.path.name for image in images}
    for entry in truth["images"]:
        entry["file_name"] = names[entry["id"]]
    (tmp_path / "again.json").write_text(json.dumps(truth))
    again = load_images(Part(images=tiny.images, annotations=tmp_path / "again.json"), SPLIT.names)
    assert _plain(again) == _plain(images)


def test_ground_truth_without_masks_has_boxes_only(tiny: TinyCoco) -> None:
    for entry in tiny.content["annotations"]:
        del entry["segmentation"], entry["area"]
    tiny.save()
    images = load_images(tiny.part(), SPLIT.base)
    truth = coco_ground_truth(images)
    assert all("segmentation" not in entry for entry in truth["annotations"])
    for entry in truth["annotations"]:
        assert entry["area"] == pytest.approx(entry["bbox"][2] * entry["bbox"][3], rel=1e-5)


# Novel boxes are hidden


def _plain(images: ImageSet) -> list[Any]:
    """Return the content of an image set as values that can be compared."""
    return [images.names, images.has_masks, images.skipped, images.notes] + [
        [image.image_id, image.path.name, image.width, image.height, image.boxes.tolist(), image.labels.tolist(),
         image.crowd.tolist(), segmentations_of(image) if images.has_masks else None,
         None if image.areas is None else image.areas.tolist()]
        for image in images
    ]  # fmt: skip


_OTHER_IDS = [key for key, name in CATEGORIES.items() if name not in SPLIT.base]
_ODD = st.one_of(st.none(), st.integers(-9, 2000), st.text(max_size=3), st.floats(), st.lists(st.floats(), max_size=5))
_OTHERS = st.builds(
    lambda category_id, rest: rest | {"category_id": category_id},
    st.sampled_from(_OTHER_IDS),
    st.dictionaries(st.sampled_from(["id", "image_id", "bbox", "area", "iscrowd", "segmentation"]), _ODD)
    | st.fixed_dictionaries(
        {
            "id": st.integers(900, 2001),
            "image_id": st.sampled_from(list(SIZES)),
            "bbox": st.tuples(*[st.integers(0, 32)] * 4).map(list),
            "area": st.floats(0, 1e6),
            "iscrowd": st.integers(0, 1),
        }
    ),
)


@given(st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_result_does_not_depend_on_annotations_of_other_categories(
    untouched: TinyCoco, data: st.DataObject
) -> None:
    """Other annotations are removed, changed or inserted anywhere among the base annotations, valid or not."""
    base = [copy.deepcopy(e) for e in untouched.content["annotations"] if CATEGORIES[e["category_id"]] in SPLIT.base]
    changed = list(base)
    for other in data.draw(st.lists(_OTHERS, max_size=12)):
        changed.insert(data.draw(st.integers(0, len(changed))), other)
    limit = data.draw(st.none() | st.integers(1, 8))
    skip_bad = data.draw(st.booleans())
    before = load_images(untouched.part(limit=limit), SPLIT.base, skip_bad, required=SPLIT.base)
    path = untouched.annotations.with_name("changed.json")
    path.write_text(json.dumps(untouched.content | {"annotations": changed}))
    part = Part(images=untouched.images, annotations=path, limit=limit)
    after = load_images(part, SPLIT.base, skip_bad, required=SPLIT.base)
    assert _plain(after) == _plain(before)
    assert coco_ground_truth(after) == coco_ground_truth(before)
    assert _all_problems(part, SPLIT.base, SPLIT.base) == []


@pytest.mark.real_data
def test_training_images_have_no_novel_boxes(shared_data: Path) -> None:
    part = Part(images=shared_data / "coco2k/images", annotations=shared_data / "coco2k/instances_train.json")
    split = load_split("coco_48_17")
    images = load_images(part, split.base, required=split.base)
    assert len(images) == 1568 and images.names == split.base
    content = json.loads(part.annotations.read_text())
    base_ids = {entry["id"] for entry in content["categories"] if entry["name"] in split.base}
    expected = sum(entry["category_id"] in base_ids for entry in content["annotations"])
    assert sum(len(image.boxes) for image in images) == expected == 12495


# Problems


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "missing"),
        ("{", "cannot be read"),
        ("[]", "images, annotations, categories"),
        ('{"images": [], "annotations": {}}', "no list of annotations, categories"),
        ("[" * 200_000, "cannot be read"),
    ],
)
def test_a_file_that_is_not_a_coco_file_is_reported(content: str | None, expected: str, tiny: TinyCoco) -> None:
    tiny.annotations.unlink()
    if content is not None:
        tiny.annotations.write_text(content)
    for skip_bad in (False, True):
        with pytest.raises(DataError, match=expected) as raised:
            load_images(tiny.part(), SPLIT.base, skip_bad)
        assert str(tiny.annotations) in str(raised.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"bbox": [1, 2, 3]}, "four numbers"),
        ({"bbox": None, "segmentation": None}, "four numbers"),
        ({"bbox": ["1", "2", "3", "a"]}, "four numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, "four numbers"),
        ({"bbox": [1, 2, float("inf"), 4]}, "four numbers"),
        ({"bbox": [1, 2, 10**400, 4]}, "four numbers"),
        ({"bbox": [10, 10, -4, 12]}, "negative side"),
        ({"bbox": [0.1, 0.1, 0.5, 0.5]}, "between 0 and 1"),
        ({"iscrowd": "maybe"}, "iscrowd is neither 0 nor 1"),
        ({"bbox": [-2.5, 10, 20, 12]}, "outside"),
        ({"bbox": [10, 10, 2000, 12]}, "outside"),
        ({"image_id": 777}, "unknown image_id 777"),
        ({"image_id": None}, "unknown image_id"),
        ({"image_id": [4]}, "unknown image_id"),
    ],
)
def test_an_invalid_box_raises_or_is_skipped(change: dict[str, Any], expected: str, tiny: TinyCoco) -> None:
    before = load_images(tiny.part(), SPLIT.base)
    bad = next(entry for entry in tiny.content["annotations"] if entry["image_id"] == 11 and entry["category_id"] == 3)
    bad |= change

    problems = _problems(tiny)

    shown = [problem for problem in problems if "annotation" in problem]
    assert any(expected in problem and str(tiny.annotations) in problem for problem in shown)
    assert "skip_bad" in problems[-1] and len(problems) == 2
    left = load_images(tiny.part(), SPLIT.base, skip_bad=True)
    assert left.skipped == problems[:-1]
    assert sum(len(image.boxes) for image in left) == sum(len(image.boxes) for image in before) - 1
    assert len(left) == len(before)
    assert _all_problems(tiny.part(), SPLIT.base, SPLIT.base) == list(problems[:-1])


@pytest.mark.parametrize(
    "entry",
    [{"id": 1, "image_id": 11, "category_id": 99, "bbox": [1, 1, 5, 5]}, {"category_id": [3]}, "text", None, {}],
)
def test_an_annotation_of_an_unknown_category_is_reported(entry: Any, tiny: TinyCoco) -> None:
    tiny.content["annotations"].append(entry)
    assert "unknown category_id" in _problems(tiny)[0]
    assert len(load_images(tiny.part(), SPLIT.base, skip_bad=True).skipped) == 1


def test_a_box_that_exceeds_the_image_by_two_pixels_is_clipped(tiny: TinyCoco) -> None:
    box = next(entry for entry in tiny.content["annotations"] if entry["image_id"] == 11 and entry["category_id"] == 3)
    box["bbox"] = [-2, 30, 100, 36]
    tiny.save()
    image = next(image for image in load_images(tiny.part(), SPLIT.base).images if image.image_id == 11)
    assert image.boxes[0].tolist() == [0, 30, 96, 64]


def test_invalid_images_raise_or_are_skipped_with_their_boxes(tiny: TinyCoco) -> None:
    (tiny.images / "000004.jpg").unlink()
    content = (tiny.images / "000008.jpg").read_bytes()
    (tiny.images / "000008.jpg").write_bytes(content[: len(content) // 2])
    (tiny.images / "000011.jpg").write_bytes(b"no image")
    next(entry for entry in tiny.content["images"] if entry["id"] == 42)["width"] = 50

    problems = _problems(tiny)
    assert [name in problem for name, problem in zip(("000004", "000011", "000042"), problems, strict=False)] == [
        True
    ] * 3
    left = load_images(tiny.part(), SPLIT.base, skip_bad=True)
    assert [image.image_id for image in left] == [19, 25, 30, 57]
    bad = [problem for problem in left.skipped if "000008" in problem]
    assert len(left.skipped) >= 4 and len(bad) == 1
    assert _all_problems(tiny.part(), SPLIT.base) == list(left.skipped)


@pytest.mark.parametrize(
    "entry",
    [
        {"id": 4, "file_name": "000004.jpg", "width": 64, "height": 96},
        {"id": 99, "width": 64, "height": 96},
        {"id": None, "file_name": "000004.jpg", "width": 64, "height": 96},
        {"id": [99], "file_name": "000004.jpg", "width": 64, "height": 96},
        {"id": 99, "file_name": "../instances.json", "width": 64, "height": 96},
        {"id": 99, "file_name": "/etc/hostname", "width": 64, "height": 96},
        "000004.jpg",
    ],
)
def test_an_invalid_image_entry_is_reported(entry: Any, tiny: TinyCoco) -> None:
    tiny.content["images"].append(entry)
    assert len(_problems(tiny)) == 2
    left = load_images(tiny.part(), SPLIT.base, skip_bad=True)
    assert len(left.skipped) == 1 and len(left) == len(SIZES)


def test_ten_problems_of_each_kind_are_listed_and_the_others_counted(tiny: TinyCoco) -> None:
    rows = [{"id": 5000 + k, "image_id": 11, "category_id": 3, "bbox": [0, 0, -3, 5]} for k in range(30)]
    tiny.content["annotations"] += [*rows, {"id": 1, "image_id": 77, "category_id": 3, "bbox": [0, 0, 5, 5]}]
    problems = _problems(tiny)
    assert len(problems) == 13 and "skip_bad" in problems[-1]
    assert [problem for problem in problems if "and 20 more: boxes with a negative side." in problem]
    assert [problem for problem in problems if "unknown image_id 77" in problem]
    assert len(_all_problems(tiny.part(), SPLIT.base)) == 31


def test_an_error_is_raised_if_skip_bad_leaves_no_image(tiny: TinyCoco) -> None:
    for path in tiny.images.iterdir():
        path.unlink()
    assert "contains none of the 8 images" in _problems(tiny, skip_bad=True)[0]
    tiny.content["images"] = []
    assert "no image in images" in _problems(tiny, skip_bad=True)[0]


# Categories


def test_a_missing_base_name_is_reported_with_a_suggestion(tiny: TinyCoco) -> None:
    for skip_bad in (False, True):
        with pytest.raises(DataError, match='no category "circl".*Did you mean "circle"'):
            load_images(tiny.part(), ("circl", "square"), skip_bad, required=("circl", "square"))


def test_a_missing_novel_name_is_accepted_unless_it_looks_misspelled(tiny: TinyCoco) -> None:
    images = load_images(tiny.part(), ("circle", "hexagon"), required=("circle",))
    assert images.names == ("circle", "hexagon")
    with pytest.raises(DataError, match='no category "triangel".*Did you mean "triangle"'):
        load_images(tiny.part(), ("circle", "triangel"), required=("circle",))
    tiny.content["categories"][0]["name"] = "coach"
    tiny.save()
    assert load_images(tiny.part(), ("square", "couch"), required=("square",)).names == ("square", "couch")


@pytest.mark.parametrize("entry", [{"id": 3, "name": "disc"}, {"name": "disc"}, "disc"])
def test_an_ambiguous_category_list_is_rejected(entry: Any, tiny: TinyCoco) -> None:
    tiny.content["categories"].append(entry)
    assert len(_problems(tiny)) == 1
    assert _problems(tiny, skip_bad=True) == _problems(tiny)


def test_two_categories_of_one_name_that_both_have_boxes_are_refused(tiny: TinyCoco) -> None:
    tiny.content["categories"].append({"id": 5, "name": "circle"})
    assert load_images(_saved(tiny), SPLIT.base)
    tiny.content["annotations"].append({"id": 1, "image_id": 11, "category_id": 5, "bbox": [1, 1, 5, 5]})
    assert 'category "circle" appears 2 times' in _problems(tiny)[0]


def _saved(tiny: TinyCoco) -> Part:
    tiny.save()
    return tiny.part()


@pytest.mark.real_data
def test_real_images_have_no_problems(shared_data: Path) -> None:
    split = load_split("coco_48_17")
    part = Part(images=shared_data / "coco2k/images", annotations=shared_data / "coco2k/instances_val.json")
    assert _all_problems(part, split.names, split.base) == []
    images = load_images(part, split.names, required=split.base)
    novel = torch.cat([image.labels for image in images]) > len(split.base)
    assert int(novel.sum()) == 373
