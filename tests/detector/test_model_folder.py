"""Loading of model folders, and errors for damaged or inconsistent ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ezsd.detector import model_folder
from ezsd.detector.model_folder import load_model, read_config
from ezsd.errors import ArtifactError
from ezsd.utils.files import read_tensors, write_tensors
from tiny_run import make_model_folder


def test_loaded_models_give_equal_detections(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "model", masks=True)
    (first, config, text), (second, _, _) = load_model(folder), load_model(folder)
    image = torch.rand(3, 96, 128)
    found, again = (model.detect([image], text)[0] for model in (first, second))
    assert config.names == config.base + config.novel and len(text) == len(config.names)
    assert len(found.boxes) and torch.equal(found.boxes, again.boxes) and not first.training


def test_weights_of_another_architecture_raise(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["detector"]["head_channels"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="does not fit the architecture"):
        load_model(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fpn_channels", 10**6), ("head_channels", 10**6), ("head_features", 10**7), ("roi_size", 10**4),
        ("head_convs", 10**9),
    ],
)  # fmt: skip
def test_a_config_cannot_ask_for_more_memory_than_the_weights_have(
    tmp_path: Path, key: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["detector"][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(model_folder, "build_detector", lambda *_, **__: pytest.fail("memory was allocated"))
    with pytest.raises(ArtifactError, match=r"does not fit the architecture in config\.json: .* has another size"):
        load_model(folder)


def test_a_config_cannot_ask_for_the_memory_of_any_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["detector"]["backbone"] = "convnext_base"
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(model_folder, "build_detector", lambda *_, **__: pytest.fail("memory was allocated"))
    with pytest.raises(ArtifactError, match=r"does not fit the architecture in config\.json: backbone"):
        load_model(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", [200_000, 200_000]), ("rpn_proposals", 10**6), ("detections_per_image", 10**6),
        ("semantic_top_k", 10**6), ("anchor_scales", [1.0] * 10**5), ("dense_sides", [10**6]),
    ],
)  # fmt: skip
def test_a_config_cannot_ask_for_any_size(tmp_path: Path, key: str, value: object) -> None:
    folder = make_model_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (config if key == "dense_sides" else config["detector"])[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=rf"is not a valid model config: (detector\.)?{key}: .*(at most|less than)"):
        read_config(folder)


def test_a_config_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "model")
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match=r"config\.json"):
        read_config(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_or_damaged_files_raise_with_the_file_name(tmp_path: Path, name: str) -> None:
    folder = make_model_folder(tmp_path / "model")
    (folder / name).write_bytes(b"{")
    with pytest.raises(ArtifactError, match=name):
        load_model(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        load_model(folder)


def test_model_without_text_embeddings_raises(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "model")
    tensors, _ = read_tensors(folder / "model.safetensors")
    del tensors["text_embeddings"]
    write_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(ArtifactError, match="text embeddings"):
        load_model(folder)


def test_model_folder_contains_no_pickle(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "model")
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize(
    "teacher, start, expected, expected_start",
    [
        ("open_clip:ViT-B-32/openai", None, "open_clip:ViT-B-32/openai", None),
        (
            "open_clip:ViT-B-32//home/me/openai",
            "torchvision:coco",
            "open_clip:ViT-B-32/PATH/openai",
            "torchvision:coco",
        ),
        ("open_clip:ViT-B-32/C:\\me\\x.pt", "/home/me/run/train/model", "open_clip:ViT-B-32/PATH/x.pt", "PATH/model"),
        ("local-dir:/home/me/clip/", "~/model", "local-dir:PATH/clip", "PATH/model"),
        ("hf-hub:org/name", None, "hf-hub:org/name", None),
        ("offline", None, "offline", None),
    ],
)
def test_a_published_config_has_no_folders_of_this_machine(
    teacher: str, start: str | None, expected: str, expected_start: str | None, tmp_path: Path
) -> None:
    config = read_config(make_model_folder(tmp_path / "model", start_from=start))
    published = config.model_copy(update={"teacher": teacher}).published()
    assert (published.teacher, published.detector.start_from) == (expected, expected_start)
    assert published.published() == published
