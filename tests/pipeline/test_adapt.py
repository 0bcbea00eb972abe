from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ezsd.data.formats.coco import load_images
from ezsd.data.samples import ImageSet
from ezsd.errors import ArtifactError, DataError
from ezsd.pipeline.adapt import run_adapt
from ezsd.pipeline.context import RunContext
from ezsd.recipe import AdaptConfig, parse_recipe
from ezsd.run_folder import RunFolder
from ezsd.teacher import adaptation, load_norms
from ezsd.training import loop
from ezsd.utils.files import read_tensors
from tiny import SPLIT, TinyCoco
from tiny_teacher import ColourTeacher, tiny_values

SETTINGS = AdaptConfig(epochs=6, batch_size=4, lr=0.02, clip_norm=1.0)
PROMPT = "a photo of a {name}"


@pytest.fixture
def parts(tmp_path: Path, tiny_coco: Callable[..., TinyCoco]) -> tuple[ImageSet, ImageSet]:
    part = tiny_coco(tmp_path / "data").part()
    return load_images(part, SPLIT.base), load_images(part, SPLIT.names)


def _run(
    parts: tuple[ImageSet, ImageSet | None], folder: Path, settings: AdaptConfig = SETTINGS, seed: int = 0
) -> ColourTeacher:
    teacher = ColourTeacher()
    values = tiny_values("images", "annotations.json")
    recipe = parse_recipe(values, "test").model_copy(update={"adapt": settings, "prompt": PROMPT, "seed": seed})
    run_adapt(RunContext(recipe, SPLIT, RunFolder(folder), "cpu"), teacher, *parts)
    return teacher


def _metrics(folder: Path) -> dict[str, float | None]:
    metrics: dict[str, float | None] = json.loads((folder / "adapt/metrics.json").read_text())
    return metrics


def _weights(teacher: ColourTeacher) -> dict[str, Tensor]:
    return {
        f"{place}.{name}": value.clone()
        for place, module in enumerate((teacher._image, teacher._to_embedding, teacher._text))
        for name, value in module.state_dict().items()
    }


def test_adaptation_improves_base_accuracy_and_writes_metrics(parts: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    _run(parts, tmp_path / "run", SETTINGS.model_copy(update={"epochs": 30}))
    metrics = _metrics(tmp_path / "run")
    before, after = metrics["accuracy_base_before"], metrics["accuracy_base_after"]
    assert before is not None and after is not None and after > before
    for name in ("accuracy_novel", "accuracy_novel_among_novel"):
        assert metrics[f"{name}_before"] is not None and metrics[f"{name}_after"] is not None
    boxes = sum(int((~image.crowd).sum()) for image in parts[0].images)
    assert metrics["crops"] == 30 * boxes and metrics["steps"] == 30 * -(-boxes // 4)
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_confusion_counts_match_the_accuracies(parts: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    _run(parts, tmp_path)
    metrics, expected = _metrics(tmp_path), json.loads((tmp_path / "adapt/confusion.json").read_text())
    assert expected["names"] == list(SPLIT.names) and expected["base"] == 2
    assert expected["before"] != expected["after"]
    truth = torch.cat([image.labels[~image.crowd] for image in parts[1].images]) - 1
    for when in ("before", "after"):
        counts = torch.zeros(4, 4)
        for true, predicted, crops in expected[when]:
            counts[true, predicted] += crops
        assert counts.sum(1).tolist() == torch.bincount(truth, minlength=4).tolist()
        for side, rows in (("base", slice(0, 2)), ("novel", slice(2, 4))):
            share = counts.diagonal()[rows].sum() / counts[rows].sum()
            assert metrics[f"accuracy_{side}_{when}"] == pytest.approx(float(share))


def test_only_affine_norm_parameters_change(parts: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    before, after = _weights(ColourTeacher()), _weights(_run(parts, tmp_path))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"0.1.weight", "0.1.bias", "2.weight", "2.bias"}
    image_only = _weights(_run(parts, tmp_path / "image", SETTINGS.model_copy(update={"towers": ("image",)})))
    assert torch.equal(before["2.weight"], image_only["2.weight"])
    assert not torch.equal(before["0.1.weight"], image_only["0.1.weight"])


def test_teacher_is_frozen_afterwards_and_its_norms_are_saved(parts: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    teacher = _run(parts, tmp_path)
    assert all(not value.requires_grad and value.grad is None for value in teacher.norm_parameters().values())
    fresh = ColourTeacher()
    load_norms(fresh, tmp_path / "adapt/norms.safetensors")
    assert fresh.fingerprint == teacher.fingerprint != ColourTeacher().fingerprint


def test_share_moves_the_norms_by_a_part_of_the_shift(parts: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    raw = ColourTeacher().norm_parameters()
    full, half = (
        _run(parts, tmp_path / str(share), SETTINGS.model_copy(update={"share": share})).norm_parameters()
        for share in (1.0, 0.5)
    )
    saved, _ = read_tensors(tmp_path / "0.5/adapt/norms.safetensors")
    for name, value in raw.items():
        torch.testing.assert_close(half[name], (value + full[name]) / 2)
        assert torch.equal(saved[name], half[name]) and not torch.equal(half[name], full[name])


def test_accuracy_is_measured_with_the_share_of_the_shift(parts: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    teacher = _run(parts, tmp_path, SETTINGS.model_copy(update={"share": 0.0}))
    assert teacher.fingerprint == ColourTeacher().fingerprint
    confusion = json.loads((tmp_path / "adapt/confusion.json").read_text())
    assert confusion["after"] == confusion["before"]


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_resumed_adaptation_is_bit_identical(
    share: float, parts: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"share": share})
    _run(parts, tmp_path / "uninterrupted", settings)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    save, saved = loop.save_checkpoint, []

    def save_and_stop(*arguments: object) -> None:
        save(*arguments)
        saved.append(arguments[1])
        if len(saved) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        _run(parts, tmp_path / "interrupted", settings)
    assert not (tmp_path / "interrupted" / "adapt/norms.safetensors").exists()
    _run(parts, tmp_path / "interrupted", settings)
    assert saved[7] == 8
    first, second = (
        read_tensors(tmp_path / name / "adapt/norms.safetensors")[0] for name in ("uninterrupted", "interrupted")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    one, two = _metrics(tmp_path / "uninterrupted"), _metrics(tmp_path / "interrupted")
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_checkpoint_with_other_settings_is_refused(
    parts: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    save = loop.save_checkpoint
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        _run(parts, tmp_path)
    with pytest.raises(ArtifactError, match="other settings"):
        _run(parts, tmp_path, SETTINGS.model_copy(update={"lr": 0.5}))


def test_seed_determines_the_result(parts: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    prints = [_run(parts, tmp_path / str(place), seed=seed).fingerprint for place, seed in enumerate((0, 0, 1))]
    assert prints[0] == prints[1] != prints[2]


def test_epoch_uses_each_base_box_once_and_no_crowd_boxes(parts: tuple[ImageSet, ImageSet]) -> None:
    batches = adaptation.CropBatches(parts[0], SPLIT.base, SETTINGS, seed=3)
    boxes = sum(int((~image.crowd).sum()) for image in parts[0].images)
    orders = [batches._order_of(epoch) for epoch in (0, 1)]
    assert [sorted(order) for order in orders] == [list(range(boxes))] * 2
    assert orders[0] != orders[1]
    crops, labels, total = batches.crops(0, 16, "cpu")
    assert crops.shape == (4, 3, 16, 16) and labels.shape == (4,) and total == 4


def test_novel_boxes_of_the_train_part_have_no_effect(parts: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    assert _run(parts, tmp_path / "a").fingerprint == _run((parts[1], parts[1]), tmp_path / "b").fingerprint


def test_accuracy_is_not_measured_without_val_images(parts: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    _run((parts[0], None), tmp_path)
    metrics = _metrics(tmp_path)
    assert all(value is None for name, value in metrics.items() if name.startswith("accuracy"))
    assert not (tmp_path / "adapt/confusion.json").exists()


def test_disabled_adaptation_measures_only_the_raw_teacher(parts: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    teacher = _run(parts, tmp_path, SETTINGS.model_copy(update={"enabled": False}))
    metrics = _metrics(tmp_path)
    assert metrics["accuracy_base_before"] is not None and metrics["accuracy_base_after"] is None
    assert metrics["crops"] == 0 and teacher.fingerprint == ColourTeacher().fingerprint
    assert not (tmp_path / "adapt/norms.safetensors").exists()
    expected = json.loads((tmp_path / "adapt/confusion.json").read_text())
    assert expected["before"] and expected["after"] is None


def test_too_small_boxes_raise_an_error(parts: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="min_side"):
        _run(parts, tmp_path, SETTINGS.model_copy(update={"min_side": 1000}))


@pytest.mark.parametrize("towers", [("image",), ("image", "text")])
def test_log_class_shares_are_added_to_the_training_logits(towers: tuple[str, ...]) -> None:
    teacher, texts = ColourTeacher(), ["circle", "square"]
    crops, labels = (
        torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 0, 0, 0, 0, 1]),
    )
    shares = torch.tensor([5 / 6, 1 / 6])
    logits = teacher.logit_scale * teacher.encode_crops(crops) @ teacher.encode_names(texts).T
    config = SETTINGS.model_copy(update={"towers": towers})
    loss = adaptation._crop_loss(teacher, texts, shares.log(), config)(crops, labels, 6)
    adjusted = (logits + shares.log()).log_softmax(1)[torch.arange(6), labels]
    assert float(loss) == pytest.approx(float(-adjusted.mean()), rel=1e-5)


def test_balanced_training_predicts_rare_names_more_often(tmp_path: Path, tiny_coco: Callable[..., TinyCoco]) -> None:
    """With ``adapt.balance``, embeddings do not learn that circles are frequent, so fewer crops are classified so."""
    coco = tiny_coco(tmp_path / "data")
    circles = [entry for entry in coco.content["annotations"] if entry["category_id"] == 3]
    for number in range(6):
        coco.content["annotations"] += [{**entry, "id": 9000 + 100 * number + entry["id"]} for entry in circles]
    coco.save()
    train, val = load_images(coco.part(), SPLIT.base), load_images(coco.part(), SPLIT.names)
    named = {}
    for balance in (0.0, 1.0):
        folder = tmp_path / str(balance)
        _run((train, val), folder, SETTINGS.model_copy(update={"balance": balance, "epochs": 10}))
        after = json.loads((folder / "adapt/confusion.json").read_text())["after"]
        named[balance] = sum(crops for _, predicted, crops in after if predicted == 0)
    assert named[1.0] < named[0.0]
