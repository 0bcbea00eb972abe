"""Tests of the recipe for own images: its settings depend on their size and number."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ezsd.commands import recipe_template as own_recipe
from ezsd.commands.anchors import LabeledBoxes
from ezsd.commands.recipe_template import OwnData, choose_settings, recipe_text
from ezsd.data.categories import CategorySplit
from ezsd.recipe import DetectorConfig, Recipe, load_recipe
from ezsd.utils import precision as measurement

SPLIT = CategorySplit("custom", ("cat", "horse"), ("dog",))
MANY = CategorySplit("custom", tuple(f"name {number}" for number in range(20)), ("dog",))


def _recipe(
    tmp_path: Path,
    images: int = 1000,
    size: tuple[int, int] = (384, 256),
    boxes: int = 4000,
    teacher: str = "offline",
    device: str = "cpu",
    split: CategorySplit = SPLIT,
) -> Recipe:
    train = images - images // 5
    files = {"train": Path("train.json"), "val": Path("val.json")}
    numbers = {"train": train, "val": images // 5}
    counts = dict.fromkeys(split.base, boxes // len(split.base)) | {"dog": 9}
    part = torch.tensor([[0.1, 0.1, 0.2, 0.2], [0.1, 0.1, 0.5, 0.7]]) * max(size)
    data = OwnData(
        Path("images"), files, numbers, [size] * images, counts, LabeledBoxes(part, torch.tensor([size] * 2).float())
    )
    path = tmp_path / "r.yaml"
    path.write_text(recipe_text(data, split, teacher, path, choose_settings(data, device)), encoding="utf-8")
    return load_recipe(path)


@pytest.mark.parametrize("images, epochs", [(15, 200), (30, 200), (100, 110), (400, 28), (3000, 12)])
def test_fewer_images_give_more_epochs_up_to_a_limit(tmp_path: Path, images: int, epochs: int) -> None:
    recipe = _recipe(tmp_path, images)
    assert recipe.train.epochs == epochs
    assert epochs == 200 or epochs * images * 0.8 / recipe.train.batch_size >= 2100


@pytest.mark.parametrize("boxes, epochs", [(100, 12), (1000, 6), (100_000, 2)])
def test_fewer_boxes_give_more_adaptation_epochs_up_to_a_limit(tmp_path: Path, boxes: int, epochs: int) -> None:
    assert _recipe(tmp_path, boxes=boxes).adapt.epochs == epochs


@pytest.mark.parametrize(
    "size, seen, min_side",
    [((384, 256), (256, 384), 15), ((4000, 3000), (480, 640), 160), ((3000, 4000), (480, 640), 160),
     ((100, 100), (256, 256), 8), ((1000, 200), (256, 640), 40)],
)  # fmt: skip
def test_input_size_is_limited_for_a_cpu(
    tmp_path: Path, size: tuple[int, int], seen: tuple[int, int], min_side: int
) -> None:
    recipe = _recipe(tmp_path, size=size)
    assert recipe.detector.image_size == seen
    assert recipe.adapt.min_side == min_side


def test_dense_reading_is_chosen_for_vision_transformers_only(tmp_path: Path) -> None:
    teachers = {
        "offline": "block",
        "open_clip:ViT-B-32/openai": "auto",
        "open_clip:EVA02-B-16/merged2b_s8b_b131k": "auto",
        "open_clip:RN50/openai": "block",
        "open_clip:convnext_base_w/laion2b_s13b_b82k": "block",
    }
    found = {teacher: _recipe(tmp_path, teacher=teacher).propose.dense_reading for teacher in teachers}
    assert found == teachers


def test_other_teachers_have_the_published_adaptation_settings(tmp_path: Path) -> None:
    offline, clip = _recipe(tmp_path), _recipe(tmp_path, teacher="open_clip:ViT-B-32/openai")
    assert (offline.teacher, offline.adapt.towers, offline.adapt.lr) == ("offline", ("image",), 1e-3)
    assert (clip.teacher, clip.adapt.towers, clip.adapt.lr) == ("open_clip:ViT-B-32/openai", ("image", "text"), 1e-4)
    assert clip.propose.dense_sides == (640, 1280)


def test_precision_is_the_faster_one_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_recipe.torch.cuda, "is_available", lambda: False)
    for precision, seconds in (("bf16", {"bf16": 1.0, "fp32": 2.0}), ("fp32", {"bf16": 2.0, "fp32": 1.0})):
        monkeypatch.setattr(measurement, "_seconds", lambda model, images, asked, found=seconds: found[asked])
        recipe = _recipe(tmp_path)
        assert {recipe.adapt.precision, recipe.propose.precision, recipe.train.precision} == {precision}


def test_comments_give_the_numbers_of_boxes_images_and_steps(tmp_path: Path) -> None:
    _recipe(tmp_path, 30)
    text = (tmp_path / "r.yaml").read_text(encoding="utf-8")
    for part in ('"cat"  # 2,000 boxes', "train:  # 24 images", "passes over 24 images: 1,200 steps", "ezsd plan"):
        assert part in text
    assert '"dog"\n' in text


@pytest.mark.parametrize("split, weight, labels", [(SPLIT, 0.02, 1.0), (MANY, 0.2, 0.5)])
def test_with_many_names_more_is_left_to_the_teacher(
    tmp_path: Path, split: CategorySplit, weight: float, labels: float
) -> None:
    train = _recipe(tmp_path, split=split).train
    assert (train.distillation_weight, train.base_labels) == (weight, labels)


@pytest.mark.parametrize("size, sides", [((384, 256), (18, 36, 72, 144)), ((4000, 3000), (30, 60, 120, 240))])
def test_anchors_scale_with_the_input_size(tmp_path: Path, size: tuple[int, int], sides: tuple[int, ...]) -> None:
    assert _recipe(tmp_path, size=size).detector.anchor_sides == sides


def test_gpu_recipe_has_the_published_network_and_the_same_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_recipe.torch.cuda, "is_available", lambda: False)
    cpu, gpu = _recipe(tmp_path), _recipe(tmp_path, device="gpu")
    method = {
        "anchor_sides", "anchor_scales", "box_quality", "quality_power", "objectness_power", "soft_nms",
        "score_threshold", "detections_per_image",
    }  # fmt: skip
    assert gpu.detector.model_dump(exclude=method) == DetectorConfig().model_dump(exclude=method)
    assert len(gpu.detector.anchor_sides) == 5 and len(cpu.detector.anchor_sides) == 4
    same = method - {"anchor_sides"}
    assert gpu.detector.model_dump(include=same) == cpu.detector.model_dump(include=same)
    assert (gpu.train.batch_size, gpu.train.precision, gpu.train.epochs) == (16, "bf16", 44)
    for section, different in (
        ("adapt", {"precision"}),
        ("propose", {"precision", "rpn_epochs"}),
        ("train", {"precision", "batch_size", "epochs"}),
    ):  # fmt: skip
        one, other = (getattr(recipe, section).model_dump(exclude=different) for recipe in (cpu, gpu))
        assert one == other


@pytest.mark.parametrize("memory, batch", [(80, 16), (40, 16), (24, 8), (16, 4), (6, 2)])
def test_batch_follows_the_memory_of_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, batch: int
) -> None:
    monkeypatch.setattr(own_recipe.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(own_recipe.torch.cuda, "is_bf16_supported", lambda **_: False)
    properties = SimpleNamespace(total_memory=memory * 10**9)
    monkeypatch.setattr(own_recipe.torch.cuda, "get_device_properties", lambda _: properties)
    recipe = _recipe(tmp_path, device="auto")
    assert (recipe.detector.backbone, recipe.train.batch_size, recipe.train.precision) == ("resnet50", batch, "fp32")


def test_auto_is_a_cpu_recipe_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_recipe.torch.cuda, "is_available", lambda: False)
    assert _recipe(tmp_path, device="auto") == _recipe(tmp_path, device="cpu")


@pytest.mark.parametrize("name, own", [
    ("coco_48_17_best", {}),
    ("lvis_rare_best", {"train.class_loss": "seesaw", "train.repeat_threshold": 0.001, "detector.masks": True}),
])  # fmt: skip
def test_best_recipes_have_the_settings_that_init_writes_for_a_gpu(
    name: str, own: dict[str, object], tmp_path: Path
) -> None:
    images, boxes = 1000, 10_000_000  # as for COCO and LVIS, the lengths of all trainings are at their limits
    written = _recipe(tmp_path, images, (640, 480), boxes, "open_clip:ViT-B-32/openai", "gpu", MANY)
    shipped = load_recipe(name)
    assert (shipped.teacher, shipped.prompt) == (written.teacher, written.prompt)
    found = {}
    for section in ("adapt", "propose", "detector", "train"):
        here, there = (getattr(recipe, section).model_dump() for recipe in (shipped, written))
        found |= {f"{section}.{key}": here[key] for key in here if here[key] != there[key]}
    of_data = {"detector.anchor_sides", "train.epochs", "train.batch_size", "propose.rpn_epochs", "adapt.precision",
               "propose.precision", "train.precision"}  # fmt: skip
    assert {key: value for key, value in found.items() if key not in of_data} == own
