"""Tests of ``ezsd init`` and ``ezsd validate``: recipes for own images, and messages about invalid data."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from ezsd.cli import app
from ezsd.commands.convert import Format, convert
from ezsd.commands.init import OwnFiles, OwnRecipe
from ezsd.commands.init import make_recipe as make_recipe_with
from ezsd.commands.validate import check_recipe
from ezsd.data.categories import load_split
from ezsd.data.formats.coco import load_parts
from ezsd.errors import ArtifactError, DataError, EzsdError, RecipeError
from ezsd.pipeline.run import run_recipe
from ezsd.recipe import load_recipe
from tiny import SPLIT, TinyCoco, make_tiny_coco
from tiny_teacher import TEACHER, tiny_values


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))


def make_recipe(
    images: Path, annotations: Path, novel: list[str], out: Path, val: Path | None = None, **options: Any
) -> OwnRecipe:
    return make_recipe_with(
        OwnFiles(images=images, annotations=annotations, val_annotations=val),
        novel,
        out,
        **{"teacher": TEACHER, "device": "cpu", **options},
    )


@pytest.fixture
def coco(tmp_path: Path) -> TinyCoco:
    return make_tiny_coco(tmp_path / "my images")


def _written(folder: Path, coco: TinyCoco, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_values(str(coco.images), str(coco.annotations)) | changes))
    return path


def test_recipe_for_own_images_is_complete_and_valid(coco: TinyCoco, tmp_path: Path) -> None:
    out = tmp_path / "recipes" / "shapes.yaml"
    made = make_recipe(coco.images, coco.annotations, ["bar", "traffic cone"], out)
    assert made.files == [out.with_name("shapes_train.json"), out.with_name("shapes_val.json"), out]
    recipe = load_recipe(out)
    assert recipe.split == {"base": ("circle", "square", "triangle", "ring"), "novel": ("bar", "traffic cone")}
    assert recipe.data.train.images == coco.images
    assert "OK: 4 base and 2 novel names; train 6 images" in check_recipe(out)
    assert "# gzsd AP50: not measured" in out.read_text()


def test_images_are_split_into_train_and_val_with_their_boxes(coco: TinyCoco, tmp_path: Path) -> None:
    *parts, _ = make_recipe(coco.images, coco.annotations, ["bar"], tmp_path / "r.yaml").files
    train, val = (json.loads(path.read_text()) for path in parts)
    ids = [{image["id"] for image in part["images"]} for part in (train, val)]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {image["id"] for image in coco.content["images"]}
    assert len(ids[1]) == 2
    for part, own in zip((train, val), ids, strict=True):
        assert {entry["image_id"] for entry in part["annotations"]} <= own
        assert part["categories"] == coco.content["categories"]
    assert len(train["annotations"]) + len(val["annotations"]) == len(coco.content["annotations"])


def test_val_annotations_of_the_user_are_used_unchanged(coco: TinyCoco, tmp_path: Path) -> None:
    val = tmp_path / "val.json"
    val.write_text(json.dumps(coco.content))
    assert make_recipe(coco.images, coco.annotations, ["bar"], tmp_path / "r.yaml", val).files == [tmp_path / "r.yaml"]
    assert load_recipe(tmp_path / "r.yaml").data.val.annotations == val


def test_init_validate_and_run_print_the_same_counts(coco: TinyCoco, tmp_path: Path) -> None:
    entries = coco.content["annotations"]
    for name in (3, 12, 20):  # of circle, bar and triangle: a box without height, and a crowd
        first = next(entry for entry in entries if entry["category_id"] == name)
        entries.append({**first, "bbox": [*first["bbox"][:3], 0]})
        entries.append({**first, "iscrowd": 1})
    coco.save()
    val = tmp_path / "val.json"
    val.write_text(json.dumps(coco.content))
    out = tmp_path / "r.yaml"
    made = make_recipe(coco.images, coco.annotations, ["bar", "ring"], out, val).summary
    assert made.pop(1).endswith(", for the val part") and made[0].startswith("found COCO JSON")
    assert made[1].startswith("found train: 8 images, ") and "bar" not in made[1]  # a run does not read novel boxes
    assert made[1].endswith("3 crowd boxes, 2 images or boxes left out (boxes without area 2)")
    assert "bar" in made[2] and made[2].endswith("4 crowd boxes, 3 images or boxes left out (boxes without area 3)")
    assert [line for line in check_recipe(out).splitlines() if line.startswith("found")] == made[1:]
    own = tiny_values("", "") | {"split": yaml.safe_load(out.read_text())["split"]}
    data = yaml.safe_load(out.read_text())["data"]
    out.write_text(yaml.safe_dump(own | {"data": {**data, "workers": 0}}))
    run_recipe(load_recipe(out), tmp_path / "run", until="adapt")
    log = (tmp_path / "run" / "run.log").read_text()
    assert all(line in log for line in made[1:])


def test_a_val_part_without_boxes_is_not_ok(coco: TinyCoco, tmp_path: Path) -> None:
    val = tmp_path / "val.json"
    val.write_text(json.dumps({**coco.content, "annotations": []}))
    make_recipe(coco.images, coco.annotations, ["bar"], tmp_path / "r.yaml", val)
    said = check_recipe(tmp_path / "r.yaml")
    assert "found val: 8 images, 0 boxes, 0 crowd boxes" in said and "OK" not in said


def test_base_names_alone_make_all_others_with_boxes_novel(coco: TinyCoco, tmp_path: Path) -> None:
    coco.content["categories"].append({"id": 99, "name": "hexagon"})
    val = tmp_path / "val.json"
    val.write_text(json.dumps(coco.content))
    coco.content["annotations"] = [entry for entry in coco.content["annotations"] if entry["category_id"] != 12]
    coco.save()  # bar has boxes in the val part only, hexagon has none
    options = ["--images", coco.images, "--annotations", coco.annotations, "--val-annotations", val]
    arguments = [*options, "--base", "circle, square", "--teacher", TEACHER, "--out", tmp_path / "r.yaml"]
    result = CliRunner().invoke(app, ["init", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert load_recipe(tmp_path / "r.yaml").split == {
        "base": ("circle", "square"),
        "novel": ("triangle", "ring", "bar"),
    }
    for base, expected in (([], "No novel name. Give names"), (["hexagon", *SPLIT.names, "ring"], "name is left")):
        files = OwnFiles(images=coco.images, annotations=coco.annotations, base=base)
        with pytest.raises(RecipeError, match=expected):
            make_recipe_with(files, [], tmp_path / "b.yaml", TEACHER, "cpu")


@pytest.mark.parametrize("layout", ["coco", "yolo", "voc"])
def test_a_val_part_elsewhere_can_have_any_format(coco: TinyCoco, tmp_path: Path, layout: Format) -> None:
    val = tmp_path / "other place"
    convert(coco.annotations.parent, val, layout)
    made = make_recipe_with(
        OwnFiles(dataset=coco.annotations.parent, val_annotations=val), ["bar"], tmp_path / "r.yaml", TEACHER, "cpu"
    )
    assert made.summary[1].startswith("found ") and made.summary[1].endswith(", for the val part")
    assert [line.split(",")[0] for line in made.summary[2:]] == ["found train: 8 images", "found val: 8 images"]
    assert val in load_recipe(tmp_path / "r.yaml").data.val.images.parents or layout == "voc"
    assert "OK: " in check_recipe(tmp_path / "r.yaml")


def test_val_images_without_boxes_are_refused(coco: TinyCoco, tmp_path: Path) -> None:
    files = OwnFiles(images=coco.images, annotations=coco.annotations, val_images=coco.images)
    with pytest.raises(RecipeError, match=r"--val-images .*: the data set has no val part"):
        make_recipe_with(files, ["bar"], tmp_path / "r.yaml", TEACHER, "cpu")


def test_lvis_and_a_test_part_are_named(coco: TinyCoco, tmp_path: Path) -> None:
    for image in coco.content["images"]:
        image["neg_category_ids"] = []
    for part in ("train", "valid", "test"):
        coco.annotations.with_name(f"lvis_{part}.json").write_text(json.dumps(coco.content))
    coco.annotations.unlink()
    files = OwnFiles(dataset=coco.annotations.parent)
    made = make_recipe_with(files, ["bar"], tmp_path / "r.yaml", TEACHER, "cpu").summary
    assert made[0].startswith("found LVIS v1, from lvis_") and made[1].startswith("found test: not used")


def test_names_and_paths_with_special_characters_are_preserved(tmp_path: Path) -> None:
    coco = make_tiny_coco(tmp_path / "Fotos: été #1")
    coco.content["categories"][0]["name"] = 'on "sale": #5'
    coco.save()
    make_recipe(coco.images, coco.annotations, ["nö", "no"], tmp_path / "r.yaml")
    recipe = load_recipe(tmp_path / "r.yaml")
    assert isinstance(recipe.split, dict)
    assert recipe.split["base"][0] == 'on "sale": #5'
    assert recipe.split["novel"] == ("nö", "no")
    check_recipe(tmp_path / "r.yaml")


def test_existing_files_are_not_replaced_without_overwrite(coco: TinyCoco, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    out.with_name("r_train.json").write_text("mine")
    with pytest.raises(ArtifactError, match=r"r_train\.json already exists"):
        make_recipe(coco.images, coco.annotations, ["bar"], out)
    assert not out.exists()
    make_recipe(coco.images, coco.annotations, ["bar"], out, overwrite=True)
    assert out.exists()


@pytest.mark.parametrize(
    "novel, expected",
    [([], "No novel name"), (["circle", "square", "bar", "triangle", "ring"], "base"), ([" "], "novel")],
)
def test_invalid_names_raise_recipe_error(coco: TinyCoco, tmp_path: Path, novel: list[str], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        make_recipe(coco.images, coco.annotations, novel, tmp_path / "r.yaml")
    assert not (tmp_path / "r.yaml").exists()


@pytest.mark.parametrize(
    "damage, expected",
    [
        (lambda content: content["images"].clear(), "no image in images"),
        (lambda content: content["images"].__delitem__(slice(1, None)), "1 usable image"),
        (lambda content: content["categories"].append("cat"), r"categories\[5\]: each entry needs an id and a name"),
        (lambda content: content.pop("images"), "no list of images"),
        (
            lambda content: [image.update(file_name="x.jpg") for image in content["images"]],
            "contains none of the 8 images",
        ),
    ],
)
def test_invalid_annotations_raise_data_error(coco: TinyCoco, tmp_path: Path, damage: Any, expected: str) -> None:
    damage(coco.content)
    coco.save()
    with pytest.raises(DataError, match=expected):
        make_recipe(coco.images, coco.annotations, ["bar"], tmp_path / "r.yaml")


def test_unknown_teacher_raises_before_anything_is_written(coco: TinyCoco, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="teacher: clip is unknown"):
        make_recipe(coco.images, coco.annotations, ["bar"], tmp_path / "r.yaml", teacher="clip")
    assert not list(tmp_path.glob("r*"))


def test_advice_does_not_stop_init(coco: TinyCoco, tmp_path: Path) -> None:
    coco.content["categories"].append({"id": 99, "name": "hexagon"})
    coco.save()
    made = make_recipe(coco.images, coco.annotations, ["bar", "Bars", "bar"], tmp_path / "r.yaml")
    expected = "\n".join(made.advice)
    for part in ("6 train images are few", "2 val images", 'Few boxes of "circle" (', 'boxes of novel names: "bar" (',
                 'ignored: "hexagon"', 'used once: "bar"', '"bar" (novel) and "Bars" (novel)'):  # fmt: skip
        assert part in expected
    assert load_recipe(tmp_path / "r.yaml").split["novel"] == ("bar", "Bars")  # type: ignore[index]
    assert "OK: " in check_recipe(tmp_path / "r.yaml")


def test_boxes_in_val_annotations_count_for_novel_names(coco: TinyCoco, tmp_path: Path) -> None:
    val = tmp_path / "val.json"
    val.write_text(json.dumps(coco.content))
    coco.content["annotations"] = [entry for entry in coco.content["annotations"] if entry["category_id"] != 12]
    coco.save()
    without = make_recipe(coco.images, coco.annotations, ["bar"], tmp_path / "a.yaml").advice
    assert any("no box of a novel name" in text for text in without)
    made = make_recipe(coco.images, coco.annotations, ["bar"], tmp_path / "b.yaml", val)
    assert any('boxes of novel names: "bar" (' in text for text in made.advice)
    assert any("8 train images are few" in text and "8 val images" in text for text in made.advice)


def test_problems_of_recipe_split_and_both_parts_are_reported_together(coco: TinyCoco, tmp_path: Path) -> None:
    image = next(coco.images.iterdir())
    image.write_bytes(image.read_bytes()[:400])  # the header stays intact
    path = _written(tmp_path, coco, split={"base": ["circle"], "novel": ["circle"]}, seed=-1)
    with pytest.raises(EzsdError) as caught:
        check_recipe(path, ["train.lr=fast"])
    expected = str(caught.value)
    for part in ("seed = -1", "train.lr = 'fast'", '"circle" is also a base name', image.name):
        assert part in expected
    assert (
        len([problem for problem in caught.value.problems if image.name in problem]) == 1
    )  # train and val have one file


def test_bad_images_are_listed_as_skipped_if_the_recipe_allows_them(coco: TinyCoco, tmp_path: Path) -> None:
    image = coco.images / "000011.jpg"
    image.unlink()
    path = _written(tmp_path, coco)
    with pytest.raises(EzsdError, match=image.name):
        check_recipe(path)
    expected = check_recipe(path, ["data.skip_bad=true"])
    assert f"skipped: {coco.annotations}: image 11: {image}: the image does not exist" in expected
    assert "train 7 images" in expected
    advice = make_recipe(coco.images, coco.annotations, ["bar"], tmp_path / "other.yaml").advice
    assert any(text.startswith(f"train: {coco.annotations}: image 11: ") for text in advice)


def test_missing_data_is_reported_with_other_problems(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("color: red")
    with pytest.raises(EzsdError) as caught:
        check_recipe(path)
    assert {"color", "split", "teacher", "data"} <= set(" ".join(caught.value.problems).replace(".", " ").split())


def test_advice_says_how_well_the_anchors_fit_the_base_boxes(coco: TinyCoco, tmp_path: Path) -> None:
    coco.content["annotations"].append({"id": 1, "image_id": 999, "category_id": 3, "bbox": [0, 0, 5, 5]})
    coco.content["annotations"].append({"id": 2, "image_id": 11, "category_id": 3, "bbox": [0, 0, -1, 5]})
    coco.save()  # ezsd validate lists these two; they do not stop init
    made = make_recipe(coco.images, coco.annotations, ["bar"], tmp_path / "r.yaml")
    detector = load_recipe(tmp_path / "r.yaml").detector
    least, most = detector.anchor_sides[0] * 0.71, detector.anchor_sides[-1] * 1.41
    assert detector.anchor_scales == (0.71, 1.0, 1.41)
    expected = f"Anchors of {least:.0f} to {most:.0f} px: 100 % of the base boxes have an anchor with IoU 0.5 or more"
    assert [text for text in made.advice if text.startswith(expected)]


@pytest.mark.parametrize("device, backbone", [("cpu", "tf_efficientnet_lite0"), ("gpu", "resnet50")])
def test_recipe_is_valid_for_each_device(coco: TinyCoco, tmp_path: Path, device: str, backbone: str) -> None:
    make_recipe(coco.images, coco.annotations, ["bar"], tmp_path / "r.yaml", device=device)
    assert "OK: " in check_recipe(tmp_path / "r.yaml")
    assert load_recipe(tmp_path / "r.yaml").detector.backbone == backbone


def test_command_writes_a_recipe_for_the_device_that_it_is_given(coco: TinyCoco, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    options = ["--images", str(coco.images), "--annotations", str(coco.annotations), "--novel", "bar"]
    result = CliRunner().invoke(app, ["init", *options, "--teacher", TEACHER, "--out", str(out), "--for", "gpu"])
    assert result.exit_code == 0, result.output
    assert "note: Anchors of" in result.output and f"next: ezsd plan {out}" in result.output
    assert "work of train: " in result.output and "work of evaluate: " in result.output
    assert load_recipe(out).detector.image_size == (800, 1333)


def test_a_folder_of_recipe_and_data_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "work"
    coco = make_tiny_coco(home / "my images")
    monkeypatch.chdir(home)
    make_recipe(Path("my images/images"), Path("my images/instances.json"), ["bar"], Path("r.yaml"))
    data = yaml.safe_load((home / "r.yaml").read_text())["data"]
    assert data["train"] == {"images": "my images/images", "annotations": "r_train.json"}
    monkeypatch.chdir(tmp_path)
    moved = home.rename(tmp_path / "elsewhere")
    assert load_recipe("elsewhere/r.yaml").data.val.annotations.resolve() == moved / "r_val.json"
    assert "OK: " in check_recipe(Path("elsewhere", "r.yaml"))
    outside = tmp_path / "recipes" / "r.yaml"
    make_recipe(moved / coco.images.relative_to(home), moved / "my images/instances.json", ["bar"], outside)
    assert load_recipe(outside).data.train.images == moved / "my images/images"


def test_a_path_that_is_not_beside_the_recipe_is_relative_to_the_working_directory(
    coco: TinyCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    path = tmp_path / "recipes" / "r.yaml"
    path.write_text(yaml.safe_dump(tiny_values("my images/images", "my images/instances.json")))
    monkeypatch.chdir(tmp_path)
    assert load_recipe(path).data.train.images == Path("my images/images")
    assert "OK: " in check_recipe(path)


_FROM_XYWH = {
    "xywh": lambda x, y, w, h: (x, y, w, h),
    "xyxy": lambda x, y, w, h: (x, y, x + w, y + h),
    "cxcywh": lambda x, y, w, h: (x + w / 2, y + h / 2, w, h),
}


@pytest.mark.parametrize("layout", _FROM_XYWH)
@pytest.mark.parametrize("unit, full", [("percent", 100), ("fraction", 1)])
def test_boxes_in_percent_or_fractions_are_refused_and_converted_as_the_message_says(
    coco: TinyCoco, tmp_path: Path, layout: str, unit: str, full: int
) -> None:
    for entry in coco.content["images"]:  # in small images, numbers up to 100 can be pixels
        entry["width"], entry["height"] = 5 * entry["width"], 5 * entry["height"]
        path = coco.images / entry["file_name"]
        Image.open(path).resize((entry["width"], entry["height"])).save(path)
    sides = {entry["id"]: (entry["width"], entry["height"]) * 2 for entry in coco.content["images"]}
    pixels = {}
    for entry in coco.content["annotations"]:
        pixels[entry["id"]] = [5 * value for value in entry["bbox"]]
        box = _FROM_XYWH[layout](*pixels[entry["id"]])
        entry["bbox"] = [full * value / side for value, side in zip(box, sides[entry["image_id"]], strict=True)]
        del entry["area"]
    coco.save()
    files = OwnFiles(images=coco.images, annotations=coco.annotations)
    with pytest.raises(DataError, match=rf"{unit}.* of the image sides.*--box-format .*{layout}-{unit}"):
        make_recipe_with(files, ["bar"], tmp_path / "r.yaml", TEACHER, "cpu")
    files = replace(files, box_format=f"{layout}-{unit}")
    *parts, _ = make_recipe_with(files, ["bar"], tmp_path / "r.yaml", TEACHER, "cpu").files
    written = [entry for part in parts for entry in json.loads(part.read_text())["annotations"]]
    assert {entry["id"] for entry in written} == pixels.keys()
    assert all(np.allclose(entry["bbox"], pixels[entry["id"]], atol=0.01) for entry in written)
    made = _converted(coco.images.parent, tmp_path / "out", f"{layout}-{unit}")
    assert np.allclose(sorted(made), sorted(pixels.values()), atol=0.01)


def _converted(folder: Path, out: Path, *box_format: str) -> list[list[float]]:
    """Return the boxes of the train part of a data set that ``ezsd convert`` copies as COCO."""
    options = [option for name in box_format for option in ("--box-format", name)]
    result = CliRunner().invoke(app, ["convert", str(folder), str(out), "--to", "coco", *options])
    assert result.exit_code == 0, result.output
    entries = json.loads((out / "train" / "_annotations.coco.json").read_text())["annotations"]
    return [entry["bbox"] for entry in entries]


def test_the_annotations_of_the_user_are_never_replaced(coco: TinyCoco) -> None:
    own = coco.annotations.rename(coco.annotations.with_name("my_train.json"))
    before, files = own.read_bytes(), OwnFiles(images=coco.images, annotations=own)
    with pytest.raises(ArtifactError, match=r"my_train\.json is a file of the data set"):
        make_recipe_with(files, ["bar"], own.with_name("my.yaml"), TEACHER, "cpu", overwrite=True)
    assert own.read_bytes() == before


def _corner_set(folder: Path, kind: str, full: float | None) -> Path:
    """Write five images of 800 x 400 pixels with a box at 100, 50, 500, 350 each, in pixels or as parts of ``full``."""
    pixels = (101 if kind == "voc" else 100, 51 if kind == "voc" else 50, 500, 350)
    x1, y1, x2, y2 = pixels if full is None else (full / 8, full / 8, full * 5 / 8, full * 7 / 8)
    folder.mkdir()
    images = ""
    for number in range(5):
        Image.new("RGB", (800, 400), (40 * number, 9, 90)).save(folder / f"{number}.png")
        if kind == "voc":
            corners = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            item = f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
            (folder / f"{number}.xml").write_text(f"<annotation><filename>{number}.png</filename>{item}</annotation>")
        if kind == "labelme":
            shape = {"label": "cat", "points": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]], "shape_type": "polygon"}
            text = json.dumps({"imagePath": f"{number}.png", "shapes": [shape]})
            (folder / f"{number}.json").write_text(text)
        images += f'<image name="{number}.png"><box label="cat" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"/></image>'
    if kind == "cvat":
        (folder / "annotations.xml").write_text(f"<annotations>{images}</annotations>")
    return folder


def _boxes_of(made: OwnRecipe) -> list[dict[str, Any]]:
    return [entry for path in made.files[:-1] for entry in json.loads(path.read_text())["annotations"]]


@pytest.mark.parametrize("kind", ["voc", "labelme", "cvat"])
@pytest.mark.parametrize("unit, full", [("fraction", 1), ("percent", 100), ("", None)])
def test_corners_that_are_no_pixels_are_refused_and_converted_as_the_message_says(
    tmp_path: Path, kind: str, unit: str, full: float | None
) -> None:
    files = OwnFiles(_corner_set(tmp_path / "set", kind, full))
    if unit:
        with pytest.raises(DataError, match=rf"which are {unit}.*0\.png.*--box-format xyxy-{unit}"):
            make_recipe_with(files, ["bar"], tmp_path / "r.yaml", TEACHER, "cpu")
        files = replace(files, box_format=f"xyxy-{unit}")
    written = _boxes_of(make_recipe_with(files, ["bar"], tmp_path / "r.yaml", TEACHER, "cpu"))
    assert [entry["bbox"] for entry in written] == [[100, 50, 400, 300]] * 5
    box_format = [files.box_format] if files.box_format else []
    assert _converted(tmp_path / "set", tmp_path / "out", *box_format) == [[100, 50, 400, 300]] * 5
    if kind == "labelme":
        assert written[0]["segmentation"] == [[100, 50, 500, 50, 500, 350, 100, 350]]


_BOXES = [(50 * number % 370, 41 * number % 110, 50 + number * 9, 40 + number * 3) for number in range(24)]
_BOXES += [(320, 160, 320, 80), (300, 20, 340, 220)]  # they end where the image of 640 x 240 pixels does
_WRITTEN = {
    "xywh": lambda x, y, w, h: (x, y, w, h),
    "yxyx": lambda x, y, w, h: (y, x, y + h, x + w),
    "xyxy-1000": lambda x, y, w, h: (x * 1000 / 640, y * 1000 / 240, (x + w) * 1000 / 640, (y + h) * 1000 / 240),
}


@pytest.mark.parametrize("kind, box_format", [
    ("coco", "yxyx"), ("coco", "xyxy-1000"), ("voc", "xywh"), ("voc", "yxyx"), ("voc", "xyxy-1000"),
    ("cvat", "xyxy-1000"), ("labelme", "xyxy-1000"),
])  # fmt: skip
def test_boxes_as_models_and_other_tools_write_them_are_refused_and_converted_as_the_message_says(
    tmp_path: Path, kind: str, box_format: str
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    entries, images = [], ""
    for number, box in enumerate(_BOXES):
        Image.new("RGB", (640, 240), (9 * number, 9, 90)).save(folder / f"{number}.png")
        a, b, c, d = written = [round(value) for value in _WRITTEN[box_format](*box)]
        entries.append({"id": number, "image_id": number, "category_id": 1, "bbox": written})
        images += f'<image name="{number}.png"><box label="cat" xtl="{a}" ytl="{b}" xbr="{c}" ybr="{d}"/></image>'
        corners = f"<xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
        xml = f"<annotation><object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"
        shape = {"label": "cat", "points": [[a, b], [c, d]], "shape_type": "rectangle"}
        if kind == "voc":
            (folder / f"{number}.xml").write_text(xml)
        if kind == "labelme":
            (folder / f"{number}.json").write_text(json.dumps({"imagePath": f"{number}.png", "shapes": [shape]}))
    if kind == "cvat":
        (folder / "annotations.xml").write_text(f"<annotations>{images}</annotations>")
    if kind == "coco":
        listed = [{"id": number, "file_name": f"{number}.png", "width": 640, "height": 240} for number in range(26)]
        content = {"images": listed, "annotations": entries, "categories": [{"id": 1, "name": "cat"}]}
        (folder / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"do not fit as .*, but as .*{box_format} \(.*--box-format {box_format}"):
        make_recipe_with(OwnFiles(folder), ["bar"], tmp_path / "r.yaml", TEACHER, "cpu")
    made = make_recipe_with(OwnFiles(folder, box_format=box_format), ["bar"], tmp_path / "r.yaml", TEACHER, "cpu")
    assert np.allclose(sorted(entry["bbox"] for entry in _boxes_of(made)), sorted(_BOXES), atol=0.7)


@pytest.mark.parametrize("kind, box_format, expected", [
    ("cvat", "xywh", "expected xyxy or xyxy-fraction or xyxy-percent or xyxy-1000, or none"),
    ("yolo", "xyxy", "expected cxcywh-fraction or xyxy-fraction or yxyx-fraction or xywh-fraction, or none"),
])  # fmt: skip
def test_a_box_format_that_a_format_cannot_have_is_refused(
    tmp_path: Path, kind: str, box_format: str, expected: str
) -> None:
    folder = _corner_set(tmp_path / "set", kind, None)
    if kind == "yolo":
        (folder / "classes.txt").write_text("cat")
        (folder / "0.txt").write_text("0 0.5 0.5 0.5 0.5")
    arguments = ["init", str(folder), "--novel", "bar", "--box-format", box_format, "--out", str(tmp_path / "r.yaml")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and expected in " ".join(result.output.split())


def test_pixels_that_look_like_percent_are_kept_if_the_user_says_so(coco: TinyCoco, tmp_path: Path) -> None:
    for entry in coco.content["images"]:
        entry["width"] = entry["height"] = 900
        Image.new("RGB", (900, 900), (entry["id"], 0, 0)).save(coco.images / entry["file_name"])
    coco.save()
    files = OwnFiles(images=coco.images, annotations=coco.annotations)
    with pytest.raises(DataError, match="--box-format xywh keeps them"):
        make_recipe_with(files, ["bar"], tmp_path / "r.yaml", TEACHER, "cpu")
    made = make_recipe_with(replace(files, box_format="xywh"), ["bar"], tmp_path / "r.yaml", TEACHER, "cpu")
    assert {tuple(entry["bbox"]) for entry in _boxes_of(made)} == {
        tuple(entry["bbox"]) for entry in coco.content["annotations"]
    }
    assert "OK: " in check_recipe(tmp_path / "r.yaml")


def test_a_box_format_that_does_not_fit_is_refused(coco: TinyCoco, tmp_path: Path) -> None:
    files = OwnFiles(images=coco.images, annotations=coco.annotations, box_format="xywh-fraction")
    with pytest.raises(DataError, match="--box-format xywh-fraction does not fit"):
        make_recipe_with(files, ["bar"], tmp_path / "r.yaml", TEACHER, "cpu")
    with pytest.raises(DataError, match="--box-format xywh-fraction does not fit"):
        convert(coco.annotations, tmp_path / "out", "coco", skip_bad=True, box_format="xywh-fraction")
    with pytest.raises(RecipeError, match="--box-format wrong: expected one of xywh, "):
        convert(coco.annotations, tmp_path / "out", "coco", box_format="wrong")


def test_val_images_that_are_train_images_are_noted(coco: TinyCoco, tmp_path: Path) -> None:
    val = tmp_path / "val.json"
    val.write_text(json.dumps(coco.content))
    made = make_recipe(coco.images, coco.annotations, ["bar"], tmp_path / "r.yaml", val)
    expected = "val: 8 of 8 images are also train images"
    assert any(expected in note for note in made.advice)
    assert f"note: {expected}" in check_recipe(tmp_path / "r.yaml")
    recipe = load_recipe(tmp_path / "r.yaml")
    notes = load_parts(recipe.data, load_split(recipe.split))["val"].notes  # what run logs
    assert any(note.startswith(expected.removeprefix("val: ")) for note in notes)
    for part in ("train", "valid"):
        (tmp_path / "set" / part).mkdir(parents=True)
        (tmp_path / "set" / part / "_annotations.coco.json").write_text(json.dumps(coco.content))
        for image in coco.images.iterdir():
            (tmp_path / "set" / part / image.name).symlink_to(image)
    notes = tuple(convert(tmp_path / "set", tmp_path / "copy", "coco").notes)
    assert any(note.startswith(expected) for note in notes)


def test_a_base_name_that_is_no_category_is_refused_with_the_nearest_names(coco: TinyCoco, tmp_path: Path) -> None:
    files = OwnFiles(images=coco.images, annotations=coco.annotations, base=["Circel", "square", "zebra"])
    with pytest.raises(RecipeError) as raised:
        make_recipe_with(files, ["bar"], tmp_path / "r.yaml", TEACHER, "cpu")
    first, second = raised.value.problems
    assert '--base: "Circel" is not a category' in first and first.endswith('The nearest are "circle".')
    assert '"zebra"' in second and second.endswith('The first are "circle", "square", "bar", "triangle", "ring".')
    assert not (tmp_path / "r.yaml").exists()


def test_that_no_base_name_is_left_says_what_is_wrong_with_the_boxes(coco: TinyCoco, tmp_path: Path) -> None:
    for entry in coco.content["annotations"]:
        entry["bbox"] = [500, 500, 10, 10]
    coco.save()
    with pytest.raises(RecipeError, match="No base name is left: 0 boxes") as raised:
        make_recipe(coco.images, coco.annotations, ["bar"], tmp_path / "r.yaml", coco.annotations)
    text = str(raised.value)
    assert "annotation 1000 (" in text and f"{len(coco.content['annotations'])} problems stop a run" in text


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_a_second_init_does_not_read_what_the_first_one_wrote(coco: TinyCoco, tmp_path: Path, layout: Format) -> None:
    folder = tmp_path / "set"
    convert(coco.annotations.parent, folder, layout)
    first = make_recipe_with(OwnFiles(dataset=folder), ["bar"], folder / "my.yaml", TEACHER, "cpu")
    again = make_recipe_with(OwnFiles(dataset=folder), ["bar"], folder / "new.yaml", TEACHER, "cpu")
    assert again.summary == first.summary
    written = make_recipe_with(OwnFiles(dataset=first.files[0]), ["bar"], tmp_path / "r.yaml", TEACHER, "cpu")
    assert "my_train.json" in written.summary[0]
    for name in ("train", "Annotations"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with pytest.raises(DataError, match="no annotations but those that ezsd init wrote, such as .*my_train.json"):
        make_recipe_with(OwnFiles(dataset=folder), ["bar"], tmp_path / "s.yaml", TEACHER, "cpu")


def test_convert_refuses_a_folder_inside_the_data_set(coco: TinyCoco) -> None:
    folder = coco.annotations.parent
    with pytest.raises(ArtifactError, match="is inside the data set"):
        convert(folder, folder / "other" / "voc", "voc")


def test_a_val_share_that_is_not_used_is_noted(coco: TinyCoco, tmp_path: Path) -> None:
    for val, share, noted in ((coco.annotations, 0.3, True), (coco.annotations, None, False), (None, 0.3, False)):
        files = OwnFiles(images=coco.images, annotations=coco.annotations, val_annotations=val, val_share=share)
        made = make_recipe_with(files, ["bar"], tmp_path / "r.yaml", TEACHER, "cpu", overwrite=True)
        assert ("--val-share 0.3 is not used: there is a val part." in made.advice) is noted
