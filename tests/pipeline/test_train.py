"""Stage train: resuming is bit-identical, novel annotations have no effect, and failures give clear errors."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ezsd.detector.backbone
import ezsd.pipeline.train
import ezsd.selection.share
import ezsd.training.loop
from ezsd.errors import ArtifactError, RecipeError
from ezsd.pipeline.run import run_recipe
from ezsd.recipe import Recipe, parse_recipe
from ezsd.utils.checkpoint import save_checkpoint
from ezsd.utils.files import read_tensors, write_tensors
from tiny import CATEGORIES, SPLIT, TinyCoco
from tiny_teacher import tiny_values

BASE_IDS = {key for key, name in CATEGORIES.items() if name in SPLIT.base}


def recipe(coco: TinyCoco, **train: Any) -> Recipe:
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    values["train"].update(train)
    return parse_recipe(values, "test")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "train" / "model" / "model.safetensors")[0]


def setting_of(folder: Path) -> str:
    setting: str = json.loads((folder / "train/model/config.json").read_text())["setting"]
    return setting


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def _removed(entries: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["category_id"] in BASE_IDS]


def _moved(entries: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    for entry in entries:
        if entry["category_id"] not in BASE_IDS:
            entry["bbox"] = [chance.random() * 20, chance.random() * 20, 5 + chance.random() * 30, 9.0]
            entry["area"], entry["iscrowd"] = chance.random() * 100, chance.randint(0, 1)
            entry["segmentation"] = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]
            entry["category_id"] = chance.choice([key for key in CATEGORIES if key not in BASE_IDS])
    return entries


def _added(entries: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    novel = [dict(entry, id=90_000 + entry["id"], category_id=20) for entry in entries]
    return sorted(entries + novel, key=lambda entry: chance.random() if entry["category_id"] == 20 else 0.5)


CRAFT = {
    "scale_jitter": [0.6, 1.7], "color_jitter": 0.3, "ema": 0.8, "validate_steps": 3, "validate_images": 4,
    "names_weight": 1.0, "pseudo_boxes": 2.0, "repeat_threshold": 0.9, "class_loss": "federated",
    "background_share": 0.3, "novel_rivals": True,
}  # fmt: skip


@pytest.mark.parametrize("change", [_removed, _moved, _added])
def test_novel_annotations_do_not_change_any_stage(
    change: Callable[..., list[dict[str, Any]]], tiny_coco: Callable[..., TinyCoco], tmp_path: Path
) -> None:
    original, altered = (tiny_coco(tmp_path / name) for name in ("original", "altered"))
    entries = altered.content["annotations"]
    order = [entry["id"] for entry in entries if entry["category_id"] in BASE_IDS]
    entries = change(entries, random.Random(7))
    kept = [entry["id"] for entry in entries if entry["category_id"] in BASE_IDS and entry["id"] < 90_000]
    assert kept == order  # the test does not change base annotations
    altered.content["annotations"] = entries
    altered.save()
    for name, coco in (("a", original), ("b", altered)):
        chosen = recipe(coco, ignore_top=2, novel_negatives=True, **CRAFT)
        propose = chosen.propose.model_copy(update={"base_overlap": 0.5})
        run_recipe(chosen.model_copy(update={"propose": propose}), tmp_path / name, until="train")
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    results = [(tmp_path / name / "train/validation.jsonl").read_text() for name in ("a", "b")]
    assert results[0] == results[1] and results[0].count("\n") == 3
    for file in ("adapt/norms.safetensors", "targets/shard-00000.arrow"):
        tensors = [(tmp_path / name / file).read_bytes() for name in ("a", "b")]
        assert len(tensors[0]) == len(tensors[1]) and len(tensors[0]) > 100
    assert_same(*(read_tensors(tmp_path / name / "adapt" / "norms.safetensors")[0] for name in ("a", "b")))


def test_novel_negatives_change_the_training_and_the_setting(
    tiny_coco: Callable[..., TinyCoco], tmp_path: Path
) -> None:
    coco = tiny_coco(tmp_path / "images")
    settings = {}
    for wanted in (False, True):
        folder = tmp_path / str(wanted)
        chosen = recipe(coco, epochs=0.5, distillation_weight=0.0, ignore_top=0, novel_negatives=wanted)
        run_recipe(chosen, folder, until="train")
        settings[wanted] = setting_of(folder)
    assert settings == {False: "strict", True: "named"}
    with pytest.raises(AssertionError):
        assert_same(weights(tmp_path / "False"), weights(tmp_path / "True"))


def test_strict_training_does_not_depend_on_the_novel_names(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    coco, found = tiny_coco(tmp_path / "images"), []
    for novel in (("triangle", "bar"), ("cone", "lamp", "bar")):
        chosen = recipe(coco, epochs=0.5, distillation_weight=0.0)
        split = {"base": SPLIT.base, "novel": novel}
        run_recipe(chosen.model_copy(update={"split": split}), tmp_path / novel[0], until="train")
        assert setting_of(tmp_path / novel[0]) == "strict"
        found.append({key: value for key, value in weights(tmp_path / novel[0]).items() if key != "text_embeddings"})
    assert_same(*found)


@pytest.mark.parametrize("fewest, setting", [(2, "named"), (4, "strict")], ids=["chosen", "too few base names"])
def test_a_share_that_is_chosen_among_all_names_makes_the_setting_named(
    fewest: int, setting: str, tiny_coco: Callable[..., TinyCoco], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ezsd.selection.share, "FEWEST_NAMES", fewest)
    monkeypatch.setattr(ezsd.selection.share, "FEWEST_BOXES", 1)
    chosen = recipe(tiny_coco(tmp_path / "images"), epochs=0.5, distillation_weight=0.0)
    adapt = chosen.adapt.model_copy(update={"share": "auto"})
    run_recipe(chosen.model_copy(update={"adapt": adapt}), tmp_path / "run", until="train")
    assert setting_of(tmp_path / "run") == setting


@pytest.mark.parametrize("more", [{}, CRAFT], ids=["plain", "craft"])
def test_resumed_training_gives_the_same_weights(
    more: dict[str, Any], tiny_coco: Callable[..., TinyCoco], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco = tiny_coco(tmp_path / "images")
    settings = recipe(coco, epochs=2, checkpoint_steps=1, accumulate=2, **more)
    run_recipe(settings, tmp_path / "uninterrupted", until="train")
    for stop in (1, 3):
        run_recipe(settings, tmp_path / f"stopped-{stop}", until="propose")

        def dies(folder: Path, step: int, *rest: Any, stop: int = stop) -> None:
            save_checkpoint(folder, step, *rest)
            if step == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(ezsd.training.loop, "save_checkpoint", dies)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(settings, tmp_path / f"stopped-{stop}", until="train")
        monkeypatch.undo()
        run_recipe(settings, tmp_path / f"stopped-{stop}", until="train")
        assert_same(weights(tmp_path / "uninterrupted"), weights(tmp_path / f"stopped-{stop}"))
        if more:
            first, second = (
                tmp_path / name / "train/validation.jsonl" for name in ("uninterrupted", f"stopped-{stop}")
            )
            assert first.read_text() == second.read_text() and first.read_text().count("\n") == 2


def test_model_has_averages_of_the_weights_and_the_training_does_not_depend_on_them(
    tiny_coco: Callable[..., TinyCoco], tmp_path: Path
) -> None:
    coco = tiny_coco(tmp_path / "images")
    trained = {}
    for ema in (0.0, 0.5):
        folder = tmp_path / str(ema)
        run_recipe(recipe(coco, epochs=1, ema=ema, checkpoint_steps=1), folder, until="train")
        trained[ema] = read_tensors(next((folder / "train/checkpoints").glob("*/tensors.safetensors")))[0]
    plain, averaged = weights(tmp_path / "0.0"), weights(tmp_path / "0.5")
    assert trained[0.0].keys() < trained[0.5].keys()
    assert_same(trained[0.0], {name: trained[0.5][name] for name in trained[0.0]})
    averages = {name: value for name, value in trained[0.5].items() if name.startswith("model.average.")}
    assert_same(averages, {name: averaged[name.removeprefix("model.average.")] for name in averages})
    assert len(averages) > 50
    assert any(not torch.equal(plain[name], averaged[name]) for name in plain)


def test_best_validated_weights_become_the_model_and_bad_results_stop_the_training(
    tiny_coco: Callable[..., TinyCoco], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    results = [5.0, 7.0, 6.0, 6.5, 9.0]

    def measure(model: torch.nn.Module) -> float:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return results[len(seen) - 1]

    monkeypatch.setattr(ezsd.pipeline.train, "measure_base", lambda *_: measure)
    coco = tiny_coco(tmp_path / "images")
    settings = recipe(coco, epochs=3, validate_steps=2, patience=2, ema=0.5)
    metrics = run_recipe(settings, tmp_path / "run", until="train")["train"]
    assert (metrics.steps, metrics.images, metrics.best_step) == (8, 16, 4)
    base = [e for e in coco.content["annotations"] if e["category_id"] in BASE_IDS and not e["iscrowd"]]
    assert (metrics.train_images, metrics.train_boxes) == (len(coco.content["images"]), len(base))
    found = weights(tmp_path / "run")
    assert_same(seen[1], {name: value for name, value in found.items() if name in seen[1]})
    assert len(seen) == 4 and any(not torch.equal(seen[0][name], seen[1][name]) for name in seen[0])


def test_validation_does_not_change_the_training(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    coco = tiny_coco(tmp_path / "images")
    trained = {}
    for steps in (0, 1):
        folder = tmp_path / str(steps)
        run_recipe(recipe(coco, epochs=1, validate_steps=steps, checkpoint_steps=1), folder, until="train")
        trained[steps] = read_tensors(next((folder / "train/checkpoints").glob("*/tensors.safetensors")))[0]
        assert (folder / "train/validation.jsonl").exists() == bool(steps)
    results = trained[1].pop("model.validation.results")
    assert len(results) == 4 and not results.isnan().any()
    assert_same(trained[0], trained[1])


def test_log_of_a_resumed_training_has_each_line_once(
    tiny_coco: Callable[..., TinyCoco], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ezsd.training.loop, "LOG_STEPS", 1)
    settings = recipe(tiny_coco(tmp_path / "images"), epochs=1, checkpoint_steps=2)

    def dies(folder: Path, step: int, *rest: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt
        save_checkpoint(folder, step, *rest)

    monkeypatch.setattr(ezsd.training.loop, "save_checkpoint", dies)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(settings, tmp_path / "run", until="train")
    monkeypatch.setattr(ezsd.training.loop, "save_checkpoint", save_checkpoint)
    run_recipe(settings, tmp_path / "run", until="train")
    lines = [json.loads(line) for line in (tmp_path / "run/train/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["loss"] > 0 and line["loss_distillation"] > 0 for line in lines)


def test_checkpoint_with_other_shapes_is_refused_and_kept(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    coco = tiny_coco(tmp_path / "images")
    run_recipe(recipe(coco), tmp_path / "run", until="train")
    checkpoints = tmp_path / "run/train/checkpoints"
    before = sorted(path.name for path in checkpoints.iterdir())
    (tmp_path / "run/train/done.json").unlink()
    meta = next(checkpoints.glob("*/tensors.safetensors"))
    tensors, _ = read_tensors(meta)
    name = "model.roi_heads.box_head.to_deltas.1.weight"
    tensors[name] = tensors[name][:, :-1]
    write_tensors(meta, tensors)
    with pytest.raises(ArtifactError, match=r"to_deltas.1.weight has shape \[4, 15\], this run needs \[4, 16\]"):
        run_recipe(recipe(coco), tmp_path / "run", until="train")
    assert sorted(path.name for path in checkpoints.iterdir()) == before


def test_diverged_training_raises_an_error(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="diverged"):
        run_recipe(recipe(tiny_coco(tmp_path / "images"), lr=1e18, warmup_steps=0), tmp_path / "run", until="train")


def test_masks_without_segmentations_raise_an_error(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    coco = tiny_coco(tmp_path / "images")
    for entry in coco.content["annotations"]:
        entry.pop("segmentation")
    coco.save()
    settings = recipe(coco)
    settings = settings.model_copy(update={"detector": settings.detector.model_copy(update={"masks": True})})
    with pytest.raises(RecipeError, match="fewer than half of the boxes"):
        run_recipe(settings, tmp_path / "run", until="train")


def test_classifier_starts_with_the_logit_scale_of_the_teacher(
    tiny_coco: Callable[..., TinyCoco], tmp_path: Path
) -> None:
    run_recipe(recipe(tiny_coco(tmp_path / "coco"), lr=1e-9), tmp_path / "run", until="train")
    scale = weights(tmp_path / "run")["roi_heads.box_predictor.log_logit_scale"].exp().item()
    assert scale == pytest.approx(10, rel=0.01)  # logit_scale of ColourTeacher


def test_training_starts_from_a_model_folder_without_imagenet_weights(
    tiny_coco: Callable[..., TinyCoco], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ezsd.detector.backbone, "_pretrained_body", None)  # a call would fail
    coco = tiny_coco(tmp_path / "coco")
    run_recipe(recipe(coco, lr=1e-9), tmp_path / "first", until="train")
    start = tmp_path / "first" / "train" / "model"
    config = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps(config | {"setting": "open"}))
    settings = recipe(coco, lr=1e-9).model_copy(update={"seed": 1})
    detector = settings.detector.model_copy(update={"start_from": str(tmp_path / "first"), "pretrained": True})
    run_recipe(settings.model_copy(update={"detector": detector}), tmp_path / "second", until="train")
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    del first["text_embeddings"]  # the seed changes the adaptation of the teacher
    assert all(torch.allclose(value, second[name], atol=1e-5) for name, value in first.items())
    found = json.loads((tmp_path / "second" / "train" / "model" / "config.json").read_text())
    assert found["setting"] == "open" and found["detector"]["start_from"] == str(start)


def test_training_starts_from_the_rpn_of_stage_propose(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    settings = recipe(tiny_coco(tmp_path / "coco"), from_rpn=True, lr=1e-9, epochs=1)
    propose = settings.propose.model_copy(update={"scoring": "regions", "rpn_epochs": 1.0})
    run_recipe(settings.model_copy(update={"propose": propose}), tmp_path / "run", until="train")
    trained, start = weights(tmp_path / "run"), read_tensors(tmp_path / "run" / "targets" / "rpn.safetensors")[0]
    assert any(name.startswith("rpn.") for name in start)
    assert all(torch.allclose(trained[name], value, atol=1e-5) for name, value in start.items())


def test_distilled_names_change_the_classifier(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    coco = tiny_coco(tmp_path / "coco")
    for weight in (0.0, 1.0):
        run_recipe(recipe(coco, names_weight=weight), tmp_path / str(weight), until="train")
    first, second = (weights(tmp_path / str(weight)) for weight in (0.0, 1.0))
    name = "roi_heads.box_predictor.background_embedding"
    assert not torch.equal(first[name], second[name])


def test_options_for_long_tails_change_the_training(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    coco, found = tiny_coco(tmp_path / "images"), []
    for index, more in enumerate([{}, {"repeat_threshold": 0.9}, {"class_loss": "seesaw"}]):
        run_recipe(recipe(coco, epochs=1, distillation_weight=0.0, **more), tmp_path / str(index), until="train")
        found.append(weights(tmp_path / str(index)))
    for first, second in ((0, 1), (0, 2)):
        with pytest.raises(AssertionError):
            assert_same(found[first], found[second])


def test_only_boxes_of_few_shot_names_are_used_and_the_result_says_so(
    tiny_coco: Callable[..., TinyCoco], tmp_path: Path
) -> None:
    names = {"base": SPLIT.base, "novel": SPLIT.novel, "few_shot": ("bar",)}
    for name, removed in (("all", ()), ("no-triangle", (20,)), ("no-bar", (12,))):
        coco = tiny_coco(tmp_path / f"{name}-images")
        coco.content["annotations"] = [e for e in coco.content["annotations"] if e["category_id"] not in removed]
        coco.save()
        chosen = recipe(coco, epochs=1, names_weight=1.0, pseudo_boxes=2.0, ignore_top=2)
        metrics = run_recipe(chosen.model_copy(update={"split": names}), tmp_path / name, until="evaluate")
        found = metrics["evaluate"]
        assert (found.setting, found.counts.boxes_novel > 0) == ("few_shot", True)
        assert json.loads((tmp_path / name / "train/model/config.json").read_text())["novel"] == ["bar", "triangle"]
    assert_same(weights(tmp_path / "all"), weights(tmp_path / "no-triangle"))
    for stage in ("adapt/norms.safetensors", "train/model/model.safetensors"):
        first, second = (read_tensors(tmp_path / name / stage)[0] for name in ("all", "no-bar"))
        with pytest.raises(AssertionError):
            assert_same(first, second)
    for path in ("all", "no-bar"):
        assert len(list((tmp_path / path / "targets").glob("*.arrow")))
    rows = {name: json.loads((tmp_path / name / "targets/metrics.json").read_text()) for name in ("all", "no-bar")}
    assert rows["all"]["base_boxes"] > rows["no-bar"]["base_boxes"]
