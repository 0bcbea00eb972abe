from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from ezsd.errors import ArtifactError, RecipeError
from ezsd.teacher import load_norms, load_teacher, save_norms
from ezsd.teacher.clip import dense_problem_of
from ezsd.teacher.dense import read_tiles, tile_starts
from ezsd.teacher.regions import box_means

TOWERS = (
    "vit", "vit_avg", "vit_quick", "resnet", "timm_cnn", "timm_convnext", "timm_mobileclip", "timm_map", "timm_token",
    "timm_eva",
)  # fmt: skip
Spec = Callable[..., str]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _image(height: int, width: int) -> torch.Tensor:
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(3))
    return F.interpolate(coarse, (height, width), mode="bilinear")[0]


@pytest.mark.parametrize("tower", TOWERS)
def test_embeddings_equal_those_of_open_clip(tiny_clip: Spec, tower: str) -> None:
    spec = tiny_clip(tower)
    teacher = load_teacher(spec)
    architecture, _, checkpoint = spec.removeprefix("open_clip:").partition("/")
    model, _, preprocess = open_clip.create_model_and_transforms(architecture, pretrained=checkpoint)
    model.eval()
    pixels = np.random.default_rng(0).integers(0, 255, (teacher.input_size, teacher.input_size, 3), dtype=np.uint8)
    crop = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    texts = ["a photo of a cat", "a photo of a traffic cone"]
    with torch.no_grad():
        image = model.encode_image(preprocess(Image.fromarray(pixels))[None], normalize=True)
        text = model.encode_text(open_clip.get_tokenizer(architecture)(texts), normalize=True)
    assert torch.allclose(teacher.encode_crops(crop), image, atol=1e-5)
    assert torch.allclose(teacher.encode_names(texts), text, atol=1e-5)
    assert teacher.embedding_dim == text.shape[1]
    assert dense_problem_of(spec) == teacher.dense_problem == ""
    assert teacher.logit_scale == pytest.approx(model.logit_scale.exp().item())


def test_a_text_beyond_the_context_is_cut_with_a_note(tiny_clip: Spec, caplog: pytest.LogCaptureFixture) -> None:
    teacher = load_teacher(tiny_clip("vit"))  # 16 tokens, two of them start and end
    fits, long = " ".join(["cat"] * 14), " ".join(["cat"] * 15)
    found = teacher.encode_names(["dog", fits, long, ""])
    assert torch.equal(found[1], found[2])
    (note,) = [record.message for record in caplog.records if record.name.startswith("ezsd")]
    assert "16 tokens" in note and f'"{long}"' in note


@pytest.mark.parametrize("tower", TOWERS)
def test_norm_parameters_are_all_norms_and_nothing_else(tiny_clip: Spec, tower: str) -> None:
    teacher = load_teacher(tiny_clip(tower))
    model: Any = teacher._model  # type: ignore[attr-defined]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    norms = teacher.norm_parameters()
    for parameter in norms.values():
        parameter.requires_grad_(True)
    crops = torch.rand(3, 3, teacher.input_size, teacher.input_size)
    (teacher.encode_crops(crops) @ teacher.encode_names(["cat", "dog"]).T)[:, 0].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in norms.values())
    by_type = sum(
        2 for layer in model.modules() if "Norm" in type(layer).__name__ and getattr(layer, "weight", None) is not None
    )
    assert len(norms) == by_type == sum(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_norm_parameters_are_split_by_tower(tiny_clip: Spec) -> None:
    teacher = load_teacher(tiny_clip("resnet"))
    image, text = teacher.norm_parameters(["image"]), teacher.norm_parameters(["text"])
    assert set(image) | set(text) == set(teacher.norm_parameters()) and not set(image) & set(text)
    assert all(name.startswith("image.") for name in image) and all(name.startswith("text.") for name in text)
    assert len(text) == 2 * (2 * 2 + 1)  # two per block, and the final norm


def test_dense_embedding_of_the_full_image_equals_its_crop_embedding_for_a_mean_pooled_cnn(tiny_clip: Spec) -> None:
    teacher = load_teacher(tiny_clip("timm_cnn"))
    image = _image(64, 64)
    dense = teacher.dense_embeddings(image, torch.tensor([[0.0, 0, 64, 64]]), (64,))
    assert torch.allclose(dense, teacher.encode_crops(image[None]), atol=1e-5)


def test_dense_embedding_of_the_full_image_equals_its_crop_embedding_for_uniform_attention(tiny_clip: Spec) -> None:
    teacher = load_teacher(tiny_clip("resnet"))
    pool = teacher._model.visual.attnpool  # type: ignore[attr-defined]
    for parameter in (pool.q_proj.weight, pool.q_proj.bias, pool.positional_embedding):
        nn.init.zeros_(parameter)
    image = _image(64, 64)
    dense = teacher.dense_embeddings(image, torch.tensor([[0.0, 0, 64, 64]]), (64,))
    assert torch.allclose(dense, teacher.encode_crops(image[None]), atol=1e-5)


def test_vit_patch_embedding_equals_attention_to_itself_only(tiny_clip: Spec) -> None:
    teacher = load_teacher(tiny_clip("vit"))
    visual = teacher._model.visual  # type: ignore[attr-defined]
    attention = visual.transformer.resblocks[-1].attn
    with torch.no_grad():  # equal, large queries and keys: each token attends only to itself
        attention.in_proj_weight[:64] = 100 * torch.eye(32).repeat(2, 1)
        attention.in_proj_bias[:64] = 0
        nn.init.ones_(visual.transformer.resblocks[-1].ln_1.weight)
        nn.init.zeros_(visual.transformer.resblocks[-1].ln_1.bias)
        image = _image(32, 32)
        normalized = teacher._normalized(image)  # type: ignore[attr-defined]
        visual.output_tokens = True
        tokens = visual(normalized[None])[1][0] @ visual.proj
        visual.output_tokens = False
    corners = torch.tensor([[0.0, 0, 8, 8], [24, 0, 32, 8], [8, 24, 16, 32]])
    dense = teacher.dense_embeddings(image, corners, (32,))
    assert torch.allclose(dense, F.normalize(tokens[[0, 3, 13]], dim=-1), atol=1e-4)


def test_timm_vit_patch_embedding_equals_attention_to_itself_only(tiny_clip: Spec) -> None:
    teacher = load_teacher(tiny_clip("timm_token"))
    visual = teacher._model.visual  # type: ignore[attr-defined]
    block = visual.trunk.blocks[-1]
    width = visual.trunk.embed_dim
    block.attn.num_heads, block.attn.head_dim = 1, width
    with torch.no_grad():
        block.attn.qkv.weight[: 2 * width] = 100 * torch.eye(width).repeat(2, 1)
        block.attn.qkv.bias[: 2 * width] = 0
        nn.init.ones_(block.norm1.weight)
        nn.init.zeros_(block.norm1.bias)
        image = _image(160, 160)
        tokens = visual.trunk.forward_features(teacher._normalized(image)[None])[0, 1:]  # type: ignore[attr-defined]
        expected = visual.head(visual.trunk.forward_head(tokens[[0, 9, 90], None]))
    corners = torch.tensor([[0.0, 0, 16, 16], [144, 0, 160, 16], [0, 144, 16, 160]])
    dense = teacher.dense_embeddings(image, corners, (160,))
    assert torch.allclose(dense, F.normalize(expected, dim=-1), atol=1e-4)


@pytest.mark.parametrize("tower", ["vit", "vit_avg", "timm_map", "timm_token", "timm_eva"])
def test_embedding_of_a_box_in_one_tile_does_not_depend_on_other_tiles(tiny_clip: Spec, tower: str) -> None:
    teacher = load_teacher(tiny_clip(tower))
    side = teacher.input_size
    image = _image(side, 2 * side)
    corner = torch.tensor([[0.0, 0, side / 4, side / 2]])
    wide = teacher.dense_embeddings(image, corner, (2 * side,))
    alone = teacher.dense_embeddings(image[:, :, :side], corner, (side,))
    assert torch.allclose(wide, alone, atol=1e-4)
    assert not torch.allclose(wide, teacher.dense_embeddings(1 - image, corner, (2 * side,)), atol=1e-2)


@pytest.mark.parametrize("tower", TOWERS)
def test_dense_embeddings_are_unit_vectors_at_every_scale(tiny_clip: Spec, tower: str) -> None:
    teacher = load_teacher(tiny_clip(tower))
    boxes = torch.tensor([[0.0, 0, 140, 100], [20, 30, 60, 80], [5, 5, 15, 12], [139, 99, 140, 100]])
    dense = teacher.dense_embeddings(_image(100, 140), boxes, (70, 300))
    assert dense.shape == (4, teacher.embedding_dim)
    assert torch.allclose(dense.norm(dim=1), torch.ones(4), atol=1e-5)
    assert teacher.dense_embeddings(_image(50, 60), torch.zeros(0, 4), (64,)).shape == (0, teacher.embedding_dim)


@pytest.mark.parametrize("length, patch, grid", [(5, 8, 4), (32, 8, 4), (33, 8, 4), (500, 14, 16), (1280, 32, 7)])
def test_tiles_cover_the_side_and_overlap(length: int, patch: int, grid: int) -> None:
    starts = tile_starts(length, patch, grid)
    assert starts[0] == 0
    assert starts[-1] == max(0, -(-length // patch) - grid)
    assert all(0 < after - before < grid for before, after in pairwise(starts))


def test_tiles_are_stitched_at_their_positions() -> None:
    """A tower whose tokens are the pixels returns the image, for any tiles."""
    image = F.normalize(_image(20, 45), dim=0)
    boxes = torch.tensor([[x, y, x + 7, y + 5] for x in range(0, 38, 3) for y in range(15)], dtype=torch.float32)
    found = read_tiles(image, boxes, size=8, grid=8, early=lambda tiles: tiles, end=lambda tokens: tokens)
    assert torch.allclose(found, F.normalize(box_means(image, boxes, 1), dim=-1), atol=1e-5)


def test_safetensors_and_pt_with_the_same_weights_give_the_same_fingerprint(tiny_clip: Spec) -> None:
    first = load_teacher(tiny_clip("vit"))
    other = tiny_clip("vit").replace(".safetensors", ".pt")
    weights = first._model.state_dict()  # type: ignore[attr-defined]
    torch.save(weights, other.partition("/")[2])
    assert load_teacher(other).fingerprint == first.fingerprint
    weights["visual.proj"][0, 0] += 1
    torch.save(weights, other.partition("/")[2])
    assert load_teacher(other).weights_digest != first.weights_digest
    assert load_teacher(tiny_clip("vit_avg")).weights_digest != first.weights_digest


def test_adapted_norms_load_bit_identically_and_only_into_their_teacher(tiny_clip: Spec, tmp_path: Path) -> None:
    teacher = load_teacher(tiny_clip("vit"))
    before = teacher.fingerprint
    for parameter in teacher.norm_parameters(["image"]).values():
        nn.init.normal_(parameter)
    save_norms(teacher, tmp_path / "norms.safetensors", ["image"])
    again = load_teacher(tiny_clip("vit"), norms=tmp_path / "norms.safetensors")
    crops = torch.rand(2, 3, 32, 32)
    assert again.fingerprint == teacher.fingerprint != before
    assert torch.equal(again.encode_crops(crops), teacher.encode_crops(crops))
    with pytest.raises(ArtifactError, match="ezsd_tiny_vit/"):
        load_norms(load_teacher(tiny_clip("vit_avg")), tmp_path / "norms.safetensors")


def test_unknown_architectures_and_tags_raise_with_suggestions(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="ViT-B-32"):
        load_teacher("open_clip:ViT-B32/openai")
    with pytest.raises(RecipeError, match="laion2b_s34b_b79k"):
        load_teacher("open_clip:ViT-B-32/laion2b")
    with pytest.raises(RecipeError, match="neither a file nor a tag"):
        load_teacher(f"open_clip:ViT-B-32/{tmp_path / 'missing.safetensors'}")
    with pytest.raises(RecipeError, match="neither a file nor a tag"):
        load_teacher("open_clip:ViT-B-32")


def test_weights_of_another_model_and_damaged_files_raise(tiny_clip: Spec, tmp_path: Path) -> None:
    other = tiny_clip("resnet").partition("/")[2]
    tiny_clip("vit")
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load_teacher(f"open_clip:ezsd_tiny_vit/{other}")
    for name, content in [("a.safetensors", b"not a checkpoint"), ("b.pt", b"not a checkpoint"), ("empty.pt", b"")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match="cannot be loaded"):
            load_teacher(f"open_clip:ezsd_tiny_vit/{tmp_path / name}")


def test_code_in_a_checkpoint_is_not_executed(tiny_clip: Spec, tmp_path: Path) -> None:
    tiny_clip("vit")
    torch.save({"weights": _Harmful(tmp_path / "executed")}, tmp_path / "harmful.pt")
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load_teacher(f"open_clip:ezsd_tiny_vit/{tmp_path / 'harmful.pt'}")
    assert not (tmp_path / "executed").exists()


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("tag, expected", [("openai", True), ("laion2b_s34b_b79k", False)])
def test_pretrained_weights_use_the_activation_of_their_training(
    monkeypatch: pytest.MonkeyPatch, tag: str, expected: bool
) -> None:
    asked: dict[str, bool] = {}

    def create_model(*_: object, **settings: bool) -> None:
        asked.update(settings)
        raise RuntimeError("no network here")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    with pytest.raises(ArtifactError, match="no network here"):
        load_teacher(f"open_clip:ViT-B-32/{tag}")
    assert asked["force_quick_gelu"] is expected
