"""Edge cases of COCO files, and the content of error messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ezsd.data.formats.coco import coco_ground_truth, count_boxes, load_images, read_part
from ezsd.data.samples import ImageSet, read_image
from ezsd.errors import DataError
from ezsd.recipe import Part
from tiny import SPLIT, TinyCoco


@pytest.fixture
def tiny(tmp_path: Path, tiny_coco: Callable[[Path], TinyCoco]) -> TinyCoco:
    return tiny_coco(tmp_path)


def _all_problems(part: Part, names: tuple[str, ...], required: tuple[str, ...] = ()) -> list[str]:
    found = read_part(part, names, required, decode=True)
    return [f"{part.annotations}: {problem}" for problem in [*found.of_file, *found.of_items]]


def _first(tiny: TinyCoco) -> dict[str, Any]:
    entry: dict[str, Any] = next(
        entry for entry in tiny.content["annotations"] if (entry["image_id"], entry["category_id"]) == (11, 3)
    )
    return entry


def _problems(tiny: TinyCoco, names: tuple[str, ...] = SPLIT.base, required: tuple[str, ...] = ()) -> list[str]:
    tiny.save()
    found = _all_problems(tiny.part(), names, required)
    with pytest.raises(DataError) as raised:
        load_images(tiny.part(), names, required=required)
    assert list(raised.value.problems[: len(found)]) == found
    return found


@pytest.mark.parametrize("bbox", [[1, 2, 3], [500, 10, 20, 12], [10, 10, -1, 12]])
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


@pytest.mark.parametrize("change", [{"file_name": ""}, {"file_name": 5}, {"file_name": None}])
def test_an_error_names_the_image_entry(tiny: TinyCoco, change: dict[str, Any]) -> None:
    tiny.content["images"].append({"id": 99, "file_name": "000004.jpg", "width": 64, "height": 96, **change})
    (problem,) = _problems(tiny)
    assert "images[8]" in problem and "'id': 99" in problem


def test_an_error_names_the_duplicate_image_id(tiny: TinyCoco) -> None:
    tiny.content["images"].append(dict(tiny.content["images"][2]))
    (problem,) = _problems(tiny)
    assert f"image id {tiny.content['images'][2]['id']}" in problem


@pytest.mark.parametrize("name", ["000004.jpg", "./000004.jpg"])
def test_two_entries_of_one_file_are_refused_also_if_bad_images_are_skipped(tiny: TinyCoco, name: str) -> None:
    tiny.content["images"].append({"id": 99, "file_name": name, "width": 64, "height": 96})
    tiny.save()
    with pytest.raises(DataError, match="images 4 and 99 are one file, "):
        load_images(tiny.part(), SPLIT.base, skip_bad=True)


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
    assert any("cannot be read" in note for note in load_images(tiny.part(), SPLIT.base).notes) != good


@pytest.mark.parametrize(
    "area, kept", [(0.5, True), (0, False), (-3.0, False), (float("inf"), False), (float("nan"), False), ("9", True)]
)
def test_an_area_that_is_not_a_positive_number_is_replaced_by_the_box_area(
    tiny: TinyCoco, area: Any, kept: bool
) -> None:
    entry = _first(tiny)
    entry["area"] = area
    tiny.save()
    image = next(image for image in load_images(tiny.part(), ("circle",)) if image.image_id == 11)
    assert image.areas is not None
    expected = float(area) if kept else entry["bbox"][2] * entry["bbox"][3]
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


@pytest.mark.parametrize("side", [0, -1, None, "x", 1e30, [5]])
def test_a_size_that_is_no_positive_number_is_read_from_the_file(tiny: TinyCoco, side: Any) -> None:
    before = load_images(tiny.part(), SPLIT.base)
    tiny.content["images"][0] |= {"width": side, "height": side}
    tiny.save()
    after = load_images(tiny.part(), SPLIT.base)
    assert [(image.width, image.height) for image in after] == [(image.width, image.height) for image in before]
    assert any("no usable width and height of 1 image" in note for note in after.notes)


@pytest.mark.parametrize("ids", [str, float, lambda key: f"00{key}", lambda key: key + 2**60, lambda key: -key])
def test_images_keep_their_boxes_whatever_type_their_ids_have(tiny: TinyCoco, ids: Callable[[int], Any]) -> None:
    before = {image.path: image.boxes.tolist() for image in load_images(tiny.part(), SPLIT.base)}
    for entry in tiny.content["images"]:
        entry["id"] = ids(entry["id"])
    for entry in tiny.content["annotations"]:
        entry["image_id"] = ids(entry["image_id"])
    tiny.save()
    after = load_images(tiny.part(), SPLIT.base)
    assert {image.path: image.boxes.tolist() for image in after} == before
    assert all(0 <= image.image_id < 2**53 for image in after)


@pytest.mark.parametrize("crowd, expected", [("0", 0), ("false", 0), (False, 0), (None, 0), (float("nan"), 0), (0.0, 0),
                                             ("1", 1), ("True", 1), (True, 1), (1.0, 1)])  # fmt: skip
def test_iscrowd_is_read_as_it_is_meant(tiny: TinyCoco, crowd: Any, expected: int) -> None:
    _first(tiny)["iscrowd"] = crowd
    tiny.save()
    images = load_images(tiny.part(), SPLIT.base)
    assert count_boxes(images)[1] == 1 + expected


def test_a_parent_category_without_boxes_is_ignored(tiny: TinyCoco) -> None:
    before = count_boxes(load_images(tiny.part(), SPLIT.base))
    tiny.content["categories"].insert(0, {"id": 0, "name": "circle", "supercategory": "none"})
    tiny.save()
    assert count_boxes(load_images(tiny.part(), SPLIT.base, required=SPLIT.base)) == before


def test_the_ids_of_annotations_are_not_needed(tiny: TinyCoco) -> None:
    before = count_boxes(load_images(tiny.part(), SPLIT.base))
    for entry in tiny.content["annotations"]:
        entry["id"] = 0
    tiny.content["annotations"][0].pop("id")
    tiny.save()
    assert count_boxes(load_images(tiny.part(), SPLIT.base)) == before


def test_boxes_without_area_are_left_out_with_a_note(tiny: TinyCoco) -> None:
    _first(tiny)["bbox"] = [10, 10, 5, 0]
    tiny.save()
    images = load_images(tiny.part(), SPLIT.base)
    assert len(images.skipped) == 1 and "no area" in images.skipped[0]
    assert any("without width or height are left out; 1 in all" in note for note in images.notes)


def test_boxes_that_are_there_twice_are_noted(tiny: TinyCoco) -> None:
    first = _first(tiny)
    others = [{"bbox": [1, 1, 9, 9]}, {"iscrowd": 1}, {"category_id": 7}, {"image_id": 8}]
    tiny.content["annotations"] += [
        {**first, "id": 987654 + place, **other} for place, other in enumerate([{}, *others])
    ]
    tiny.save()
    (note,) = [note for note in load_images(tiny.part(), SPLIT.names).notes if "repeat" in note]
    assert note.startswith("1 of ") and "the first is annotation 987654. All are used" in note
    tiny.content["annotations"].pop(-5)
    tiny.save()
    assert not any("repeat" in note for note in load_images(tiny.part(), SPLIT.names).notes)


def test_a_problem_of_an_image_is_reported_once_and_not_for_its_boxes(tiny: TinyCoco) -> None:
    entry = next(entry for entry in tiny.content["images"] if entry["id"] == 11)
    del entry["file_name"]
    assert len(_problems(tiny)) == 1


def test_annotations_without_usable_boxes_are_refused(tiny: TinyCoco) -> None:
    for entry in tiny.content["annotations"]:
        entry["iscrowd"] = 1
    tiny.save()
    for skip_bad in (False, True):
        with pytest.raises(DataError, match="no box is left to learn from.*are crowds"):
            load_images(tiny.part(), SPLIT.base, skip_bad, SPLIT.base)


@pytest.mark.parametrize("change", [lambda name: f"sub\\{name}", lambda name: f"/data/upload/1/{name}", str.upper,
                                    lambda name: f"0badcafe-{name}", lambda name: f" {name}\n",
                                    lambda name: f"https://host/bucket/{name}?token=a/b#c",
                                    lambda name: name.replace("0", "%30")])  # fmt: skip
def test_images_are_found_under_a_name_that_differs_as_tools_write_it(
    tiny: TinyCoco, change: Callable[[str], str]
) -> None:
    before = {image.path: image.boxes.tolist() for image in load_images(tiny.part(), SPLIT.base)}
    for entry in tiny.content["images"]:
        entry["file_name"] = change(entry["file_name"])
    tiny.save()
    after = load_images(tiny.part(), SPLIT.base)
    assert {image.path: image.boxes.tolist() for image in after} == before
    assert any("8 images are found under another name" in note for note in after.notes)


def test_boxes_with_the_id_of_two_images_are_left_out_if_bad_ones_are_skipped(tiny: TinyCoco) -> None:
    before = {image.image_id for image in load_images(tiny.part(), SPLIT.base)}
    first, second = (entry["id"] for entry in tiny.content["images"][:2])
    tiny.content["images"][1]["id"] = first
    tiny.save()
    assert {image.image_id for image in load_images(tiny.part(), SPLIT.base, skip_bad=True)} == before - {first, second}


def test_plus_signs_are_spaces_only_if_no_file_has_them(tiny: TinyCoco) -> None:
    one, two, three = (entry["file_name"] for entry in tiny.content["images"][:3])
    for name, new in ((one, "a b.jpg"), (two, "c+d.jpg"), (three, "c d.jpg")):
        (tiny.images / name).rename(tiny.images / new)
    for entry, name in zip(tiny.content["images"], ("a+b.jpg", "c+d.jpg", "c d.jpg"), strict=False):
        entry["file_name"] = name
    tiny.save()
    names = {image.image_id: image.path.name for image in load_images(tiny.part(), SPLIT.base)}
    assert [names[entry["id"]] for entry in tiny.content["images"][:3]] == ["a b.jpg", "c+d.jpg", "c d.jpg"]


def test_sizes_that_are_exchanged_are_named(tiny: TinyCoco) -> None:
    entry = next(entry for entry in tiny.content["images"] if entry["width"] != entry["height"])
    entry["width"], entry["height"] = entry["height"], entry["width"]
    (problem,) = _problems(tiny)
    assert problem.endswith("are width and height exchanged, or was the image turned after it was labelled?")


def test_a_file_is_not_used_for_two_names(tiny: TinyCoco) -> None:
    tiny.content["images"].append({"id": 99, "file_name": "other/000004.jpg", "width": 64, "height": 96})
    (problem,) = _problems(tiny)
    assert "does not exist" in problem


def _as_format(tiny: TinyCoco, box_format: str) -> None:
    """Write all boxes in another format, without areas."""
    sizes = {entry["id"]: (entry["width"], entry["height"]) for entry in tiny.content["images"]}
    layout, _, unit = box_format.partition("-")
    for entry in tiny.content["annotations"]:
        x, y, w, h = entry["bbox"]
        box = {"xywh": (x, y, w, h), "xyxy": (x, y, x + w, y + h), "cxcywh": (x + w / 2, y + h / 2, w, h)}[layout]
        full = {"": None, "fraction": 1, "percent": 100}[unit]
        sides = sizes[entry["image_id"]] * 2
        entry["bbox"] = [v if full is None else v / s * full for v, s in zip(box, sides, strict=True)]
        del entry["area"]


@pytest.mark.parametrize("box_format", ["xywh-fraction", "xyxy-fraction", "cxcywh-fraction", "xyxy"])
def test_boxes_in_another_format_are_recognized_together(tiny: TinyCoco, box_format: str) -> None:
    _as_format(tiny, box_format)
    tiny.save()
    for skip_bad in (False, True):
        with pytest.raises(DataError) as raised:
            load_images(tiny.part(), SPLIT.names, skip_bad)
        assert len(raised.value.problems) == 1 and f"--box-format {box_format}" in str(raised.value)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_categories_that_boxes_count_from_zero_are_recognized(tiny: TinyCoco, skip_bad: bool) -> None:
    place = {entry["id"]: number for number, entry in enumerate(tiny.content["categories"])}
    for entry in tiny.content["annotations"]:
        entry["category_id"] = place[entry["category_id"]]
    for number, entry in enumerate(tiny.content["categories"], start=1):
        entry["id"] = number
    tiny.save()
    with pytest.raises(DataError, match="count categories from 0"):
        load_images(tiny.part(), SPLIT.names, skip_bad)
    for entry in tiny.content["annotations"]:
        entry["category_id"] += 1
    tiny.save()
    assert load_images(tiny.part(), SPLIT.names, skip_bad)


@pytest.mark.parametrize("missing", [3, 8])
def test_images_that_have_another_suffix_in_the_folder_are_named_and_counted(tiny: TinyCoco, missing: int) -> None:
    names = sorted(entry["file_name"] for entry in tiny.content["images"])[:missing]
    for name in names:
        (tiny.images / name).rename((tiny.images / name).with_suffix(".webp"))
    found = _problems(tiny)
    assert len(found) == (missing if missing < 8 else 1)
    first = (tiny.images / names[0]).with_suffix(".webp")
    assert f"{missing} missing images have another suffix in the folder, such as {first}: " in found[0]


def test_a_missing_image_does_not_have_another_suffix_if_two_files_could_be_it(tiny: TinyCoco) -> None:
    path = tiny.images / tiny.content["images"][0]["file_name"]
    path.rename(path.with_suffix(".webp"))
    Image.new("RGB", (9, 9)).save(path.with_suffix(".bmp"))
    (problem,) = _problems(tiny)
    assert "the image does not exist" in problem and "suffix" not in problem


@pytest.mark.parametrize("name, noted", [
    ("v\ufffdlo", True), ("v\u00c3\u00a9lo", True), ("bell\x07", True), ("v\u00e9lo", False), ("\u6c7d\u8f66", False),
])  # fmt: skip
def test_names_that_lost_their_letters_are_noted(tiny: TinyCoco, name: str, noted: bool) -> None:
    tiny.content["categories"][0]["name"] = name
    tiny.save()
    notes = [note for note in read_part(tiny.part()).images.notes if "garbled" in note]
    assert [repr(name) in note and "1 name seems" in note for note in notes] == [True] * noted
