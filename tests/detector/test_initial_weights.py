"""Training from the weights of another detector: what is loaded, the setting, and refused folders."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from ezsd.detector import initial_weights as module
from ezsd.detector.initial_weights import InitialWeights, check_detector, read_initial_weights
from ezsd.detector.model_folder import load_model
from ezsd.detector.rcnn import Rcnn, build_detector
from ezsd.errors import ArtifactError, RecipeError
from ezsd.recipe import DetectorConfig
from tiny import SPLIT
from tiny_run import DETECTOR, EMBEDDING_DIM, make_model_folder
from tiny_teacher import TEACHER


def _config(folder: Path, **changes: Any) -> DetectorConfig:
    return DETECTOR.model_copy(update={"start_from": str(folder), **changes})


def _started(config: DetectorConfig, teacher: str = TEACHER, dim: int = EMBEDDING_DIM) -> tuple[Rcnn, list[str]]:
    start = read_initial_weights(config, teacher)
    assert start is not None
    model = build_detector(config, dim, masks=False, pretrained=False)
    return model, start.load_into(model)


def _same(model: Rcnn, tensors: dict[str, Tensor]) -> set[str]:
    own = model.state_dict()
    return {name for name, value in tensors.items() if name in own and torch.equal(own[name], value)}


def test_model_of_the_same_shape_starts_with_all_weights_and_frozen_first_layers(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "model")
    model, missing = _started(_config(folder))
    tensors = load_model(folder, fold=False)[0].state_dict()
    assert missing == [] and _same(model, tensors) == set(tensors)
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert frozen and all(name.startswith("backbone.body.") for name in frozen)


def test_layers_of_another_shape_are_not_loaded_and_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_model_folder(tmp_path / "model")
    with caplog.at_level(logging.INFO, "ezsd"):
        model, missing = _started(_config(folder, head_features=24))
    assert {name.split(".")[1] for name in missing} == {"box_head"}
    assert "roi_heads.box_head.to_embedding.2.0.weight" in missing
    assert "roi_heads.box_head.shared.0.0.weight" in _same(model, load_model(folder, fold=False)[0].state_dict())
    assert "roi_heads.box_head.to_embedding.2.0" in caplog.text and "rpn" not in caplog.text


@pytest.mark.parametrize("teacher, dim", [("offline", EMBEDDING_DIM), (TEACHER, 24)])
def test_classifier_and_embedding_layer_need_the_same_teacher(tmp_path: Path, teacher: str, dim: int) -> None:
    _, missing = _started(_config(make_model_folder(tmp_path / "model")), teacher, dim)
    assert "roi_heads.box_predictor.background_embedding" in missing
    assert "roi_heads.box_head.to_embedding.4.weight" in missing
    assert "roi_heads.box_head.to_deltas.0.0.weight" in missing
    assert not [name for name in missing if name.startswith(("backbone", "rpn", "roi_heads.box_head.shared"))]


def test_run_folder_is_accepted_for_its_model(tmp_path: Path) -> None:
    make_model_folder(tmp_path / "run" / "train" / "model")
    check_detector(_config(tmp_path / "run"))
    assert _started(_config(tmp_path / "run"))[1] == []


def test_torchvision_weights_give_the_features_and_regions_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    monkeypatch.setattr(module, "fasterrcnn_resnet50_fpn", lambda **_: theirs)
    config = DetectorConfig(start_from="torchvision:coco", head_channels=8, head_features=8)
    check_detector(config)
    model, missing = _started(config)
    assert {name.split(".")[0] for name in missing} == {"roi_heads"}
    image = torch.rand(1, 3, 64, 96)
    mean, std = torch.tensor(theirs.transform.image_mean), torch.tensor(theirs.transform.image_std)
    with torch.no_grad():
        features = theirs.backbone((image - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        expected = theirs.rpn.head(list(features.values()))
        own = model.eval().backbone(image)
        found = model.rpn.head(list(own.values()))[:2]
    for ours, other in [(list(own.values()), list(features.values())), *zip(found, expected, strict=True)]:
        for a, b in zip(ours, other, strict=True):
            assert (a - b).abs().max() < 1e-5 * b.abs().max()


def test_failed_download_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**_: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(module, "fasterrcnn_resnet50_fpn", offline)
    with pytest.raises(ArtifactError, match=r"no route to host.*remove detector\.start_from"):
        read_initial_weights(DetectorConfig(start_from="torchvision:coco"), TEACHER)


@pytest.mark.parametrize(
    "start, base, own, expected",
    [
        ("strict", ("circle",), "strict", "strict"),
        ("strict", ("circle",), "named", "named"),
        ("named", ("circle",), "strict", "named"),
        ("open", ("circle",), "named", "open"),
        ("named", ("circle", "bar"), "named", "open"),  # boxes of the novel name bar
    ],
)
def test_setting_includes_what_the_other_detector_knows(start: str, base: tuple[str], own: str, expected: str) -> None:
    assert InitialWeights({}, start, base).joint_setting(own, SPLIT.novel) == expected


def test_other_backbone_is_refused_with_the_name_to_set(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "model")
    with pytest.raises(RecipeError, match=r"Set detector\.backbone: tf_efficientnet_lite0"):
        check_detector(_config(folder, backbone="resnet50"))
    with pytest.raises(RecipeError, match=r"Set detector\.backbone: resnet50"):
        check_detector(_config(tmp_path, start_from="torchvision:coco"))


@pytest.mark.parametrize("start", ["nowhere", "torchvision:imagenet"])
def test_other_paths_are_refused(start: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a model folder"):
        check_detector(_config(tmp_path / start))
    folder = make_model_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match="is not a model folder"):
        check_detector(_config(folder))


def test_imagenet_weights_are_not_needed(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["detector"]["backbone"] = "seresnet18"  # timm has no weights for it
    (folder / "config.json").write_text(json.dumps(config))
    check_detector(_config(folder, backbone="seresnet18", pretrained=True))
