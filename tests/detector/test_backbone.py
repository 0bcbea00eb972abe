"""The backbone: strides of the levels, pretrained weights, frozen layers, refused models."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import yaml
from torch import Tensor, nn
from typer.testing import CliRunner

from ezsd.cli import app
from ezsd.commands.validate import check_recipe
from ezsd.detector.backbone import CHECKED_BACKBONES, Backbone, check_backbone, input_statistics
from ezsd.errors import EzsdError, RecipeError
from ezsd.utils.packaged_weights import packaged_image_tower
from tiny import make_tiny_coco
from tiny_teacher import tiny_values

FIRST_LAYERS = {
    "resnet50": ("conv1.", "bn1.", "layer1."),
    "tf_efficientnet_lite0": ("conv_stem.", "bn1.", "blocks.0.", "blocks.1."),
    "convnext_tiny": ("stem_0.", "stem_1.", "stages_0."),
    "efficientnet_b0": ("conv_stem.", "bn1.", "blocks.0.", "blocks.1."),
    "efficientnet_b3": ("conv_stem.", "bn1.", "blocks.0.", "blocks.1."),
    "mobilenetv4_conv_small": ("conv_stem.", "bn1.", "blocks.0."),
    "mobilenetv4_conv_medium": ("conv_stem.", "bn1.", "blocks.0."),
}


@pytest.mark.parametrize("name", [*CHECKED_BACKBONES, "convnext_tiny.fb_in22k"])
def test_levels_have_strides_4_to_64(name: str) -> None:
    check_backbone(name, pretrained=True)
    levels = Backbone(name, 8, pretrained=False).eval()(torch.rand(1, 3, 128, 192))
    assert [tuple(level.shape) for level in levels.values()] == [
        (1, 8, 32, 48), (1, 8, 16, 24), (1, 8, 8, 12), (1, 8, 4, 6), (1, 8, 2, 3)
    ]  # fmt: skip


@pytest.mark.parametrize("name", CHECKED_BACKBONES)
def test_frozen_layers_are_those_up_to_stride_4(name: str) -> None:
    backbone = Backbone(name, 8, pretrained=False)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    backbone.freeze_first_layers()
    frozen = {key for key, value in backbone.body.named_parameters() if not value.requires_grad}
    assert frozen == {key for key, _ in backbone.body.named_parameters() if key.startswith(FIRST_LAYERS[name])}
    assert all(parameter.requires_grad for parameter in backbone.fpn.parameters())


@pytest.mark.parametrize("name", CHECKED_BACKBONES)
def test_training_changes_neither_statistics_nor_the_level_at_stride_4(name: str) -> None:
    torch.manual_seed(0)
    backbone = Backbone(name, 8, pretrained=False)
    backbone.freeze_first_layers()
    image = torch.rand(2, 3, 64, 96)

    def levels() -> list[Tensor]:
        with torch.no_grad():
            return backbone.eval().body(image)  # type: ignore[no-any-return, operator]

    before, buffers = levels(), {key: value.clone() for key, value in backbone.body.named_buffers()}
    optimizer = torch.optim.SGD([value for value in backbone.parameters() if value.requires_grad], lr=0.1)
    sum(level.square().sum() for level in backbone.train()(image).values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    assert all(torch.equal(value, buffers[key]) for key, value in backbone.body.named_buffers())
    first, *later = [torch.equal(old, new) for old, new in zip(before, levels(), strict=True)]
    assert first and not any(later)


@pytest.mark.parametrize("name", ["resnet50", "tf_efficientnet_lite0"])
def test_body_is_the_one_of_earlier_versions(name: str) -> None:
    torch.manual_seed(3)
    body = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4)).state_dict()
    torch.manual_seed(3)
    found = Backbone(name, 8, pretrained=False).body.state_dict()
    assert found.keys() == body.keys() and all(torch.equal(found[key], body[key]) for key in body)


def test_model_without_first_layers_has_no_frozen_layers() -> None:
    backbone = Backbone("hrnet_w18_small", 8, pretrained=False)  # its level at stride 4 is computed from all others
    backbone.freeze_first_layers()
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_images_are_normalized_as_the_weights_expect() -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert input_statistics("resnet50") == input_statistics("convnext_tiny") == imagenet
    assert input_statistics("tf_efficientnet_lite0") == ((127 / 255,) * 3, (128 / 255,) * 3)
    assert input_statistics("resnetv2_50") == ((0.5,) * 3, (0.5,) * 3)
    backbone = Backbone("resnetv2_50", 8, pretrained=False).eval()
    seen: list[Tensor] = []
    backbone.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone(torch.full((1, 3, 64, 64), 0.75))
    assert torch.allclose(seen[0], torch.tensor(0.5))


def test_pretrained_backbone_has_the_weights_of_the_package_and_frozen_first_layers() -> None:
    backbone = Backbone("tf_efficientnet_lite0", 8, pretrained=True)
    packaged = packaged_image_tower().state_dict()
    for name, value in backbone.body.state_dict().items():
        assert torch.equal(value, packaged[name]), name
    frozen = {name for name, parameter in backbone.body.named_parameters() if not parameter.requires_grad}
    assert frozen and all(name.startswith(FIRST_LAYERS["tf_efficientnet_lite0"]) for name in frozen)


def test_layer_norm_is_trained() -> None:
    backbone = Backbone("convnext_tiny", 8, pretrained=False).train()
    norms = [module for module in backbone.body.modules() if isinstance(module, nn.LayerNorm)]
    assert norms and all(module.training for module in norms)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("resnet_50", "no model of this name. Did you mean resnet50"),
        ("nonsense", "Checked models: resnet50"),
        ("resnet50.nope", "Invalid pretrained tag"),
        ("vit_base_patch16_224", "Input height"),
        ("samvit_base_patch16", "strides 16, 16, 16; 4, 8, 32 is missing"),
        ("mambaout_tiny", r"have shape \[16, 24, 96\]"),
        ("legacy_xception", r"have shape \[128, 15, 23\]"),
        ("xcit_nano_12_p8_224", "strides 8, 8, 8"),
    ],
)
def test_model_without_pyramid_is_refused_with_the_reason(name: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        check_backbone(name, pretrained=False)


def test_model_without_weights_is_refused_only_if_they_are_needed() -> None:
    check_backbone("seresnet18", pretrained=False)
    with pytest.raises(RecipeError, match="no pretrained weights"):
        check_backbone("seresnet18", pretrained=True)


def test_commands_refuse_a_backbone_before_any_stage(tmp_path: Path) -> None:
    coco = make_tiny_coco(tmp_path / "data")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_values(str(coco.images), str(coco.annotations))))
    change = "detector.backbone=resnet_50"
    with pytest.raises(EzsdError, match="Did you mean resnet50"):
        check_recipe(path, [change])
    for command in (["run", "--out", str(tmp_path / "run")], ["plan"]):
        result = CliRunner().invoke(app, [command[0], str(path), *command[1:], "--set", change])
        assert result.exit_code == 2 and "Did you mean resnet50" in result.output
    assert not (tmp_path / "run").exists()


def test_pyramid_of_four_levels_starts_at_stride_8() -> None:
    model = Backbone("tf_efficientnet_lite0", 16, pretrained=False, levels=4).eval()
    levels = model(torch.rand(1, 3, 128, 192))
    assert {name: tuple(level.shape[2:]) for name, level in levels.items()} == {
        "1": (16, 24), "2": (8, 12), "3": (4, 6), "pool": (2, 3),
    }  # fmt: skip


def test_depthwise_convolutions_train_in_float32_under_autocast() -> None:
    model = Backbone("tf_efficientnet_lite0", 16, pretrained=False).train()
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    for module in model.body.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda layer, _, output: seen[layer.groups > 1].add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.rand(1, 3, 64, 64))
    assert seen == {True: {torch.float32}, False: {torch.bfloat16}}


def test_classes_of_the_convolutions_do_not_change_names_or_values() -> None:
    torch.manual_seed(0)
    model = Backbone("tf_efficientnet_lite0", 16, pretrained=False).eval()
    torch.manual_seed(0)
    plain = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    assert list(model.body.state_dict()) == list(plain.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert all(torch.equal(ours, other) for ours, other in zip(model.body(image), plain(image), strict=True))
