"""Teachers from a folder or a hub: config, weights and tokenizer saved on the spot, with small random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ezsd.commands.init import OwnFiles, make_recipe
from ezsd.commands.validate import check_recipe
from ezsd.errors import ArtifactError, EzsdError, RecipeError
from ezsd.pipeline.fingerprints import absolute_teacher
from ezsd.pipeline.run import run_recipe
from ezsd.recipe import load_recipe
from ezsd.teacher import check_dense, load_teacher
from ezsd.teacher.clip import dense_problem_of
from tiny import make_tiny_coco
from tiny_teacher import TEACHER

VIT = {"image_size": 32, "layers": 3, "width": 32, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", "cat", "cone", "кошка")
SIGLIP2 = {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP2", "tokenizer_kwargs": {"clean": "canonicalize"},
           "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}  # fmt: skip
CLIPA = {"hf_tokenizer_name": "bert-base-uncased", "tokenizer_kwargs": {"strip_sep_token": True},
         "no_causal_mask": True, "pool_type": "last"}  # fmt: skip
SWIN = {"image_size": 64, "timm_model_name": "swin_tiny_patch4_window7_224", "timm_model_pretrained": False,
        "timm_pool": "", "timm_proj": "linear"}  # fmt: skip
RELATIVE = {**SWIN, "timm_model_name": "vit_relpos_small_patch16_224"}
COCA = {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2, "attn_pooler_heads": 2}


def _save(folder: Path, vision: dict[str, Any], text: dict[str, Any], **others: Any) -> Path:
    """Save a random model in open_clip's format, with a tokenizer of ten words if the config names one."""
    folder.mkdir(parents=True)
    own = "hf_tokenizer_name" in text
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": {**TEXT, **text} | ({"vocab_size": 10} if own else {})}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**config, **others}, "preprocess_cfg": {}}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = open_clip.CoCa if "multimodal_cfg" in others else open_clip.CLIP
        model = kind(**{**json.loads(json.dumps(config)), **{k: v for k, v in others.items() if k != "custom_text"}})
    save_file({key: value.contiguous().clone() for key, value in model.state_dict().items()},
              folder / "open_clip_model.safetensors")  # fmt: skip
    if own:
        tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
        ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("text", [{}, SIGLIP2, CLIPA], ids=["clip", "siglip2", "clipa"])
def test_a_local_folder_embeds_as_open_clip_does(text: dict[str, Any], tmp_path: Path) -> None:
    folder = _save(tmp_path / "model", VIT, text)
    teacher = load_teacher(f"local-dir:{folder}")
    texts = ["a photo of a cat", "a photo of a cone", "a photo of a кошка"]
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(texts), normalize=True)
    torch.testing.assert_close(teacher.encode_names(texts), expected)
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)
    assert teacher.dense_embeddings(torch.rand(3, 40, 60), torch.tensor([[0.0, 0, 20, 20]]), (64,)).shape == (1, 24)


def test_a_hub_repository_is_read_from_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = _save(tmp_path / "model", VIT, {})
    stored = tmp_path / "hub" / "models--org--name"
    shutil.copytree(local, stored / "snapshots" / "0123")
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("0123")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert load_teacher("hf-hub:org/name").weights_digest == load_teacher(f"local-dir:{local}").weights_digest
    with pytest.raises(ArtifactError, match=r"hf-hub:org/none cannot be loaded.*local-dir:PATH"):
        load_teacher("hf-hub:org/none")


def test_folders_that_are_missing_or_incomplete_raise(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        load_teacher(f"local-dir:{tmp_path / 'none'}")
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        folder = _save(tmp_path / name, VIT, {})
        (folder / name).unlink()
        with pytest.raises(ArtifactError, match="cannot be loaded"):
            load_teacher(f"local-dir:{folder}")


def test_a_tokenizer_that_asks_to_run_code_is_refused(tmp_path: Path) -> None:
    folder = _save(tmp_path / "model", VIT, {**CLIPA, "tokenizer_kwargs": {"trust_remote_code": True}})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["stranger.Tokenizer", None]}
    settings["tokenizer_class"] = "Tokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "stranger.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(ArtifactError, match="is refused: its config sets trust_remote_code"):
        load_teacher(f"local-dir:{folder}")
    assert not (tmp_path / "ran").exists()


def test_the_folder_of_a_recipe_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_teacher("local-dir:model") == f"local-dir:{tmp_path / 'model'}"
    assert absolute_teacher("hf-hub:org/name") == "hf-hub:org/name"


@pytest.mark.parametrize("vision", [SWIN, RELATIVE], ids=["swin", "relative"])
def test_towers_without_a_feature_map_are_refused_with_the_reason_and_crops_still_work(
    vision: dict[str, Any], tmp_path: Path
) -> None:
    spec = f"local-dir:{_save(tmp_path / 'model', {**vision, 'image_size': 224}, {})}"
    teacher = load_teacher(spec)
    assert dense_problem_of(spec) == teacher.dense_problem
    with pytest.raises(RecipeError, match="propose.scoring: exhaustive"):
        check_dense(teacher)
    with pytest.raises(RecipeError, match="in one pass: the trunk"):
        teacher.dense_embeddings(torch.rand(3, 40, 60), torch.tensor([[0.0, 0, 20, 20]]), (64,))
    assert teacher.encode_crops(torch.rand(1, 3, 224, 224)).shape == (1, 24)


def test_they_are_refused_by_every_command_before_anything_is_read(tmp_path: Path) -> None:
    folder = _save(tmp_path / "model", {**SWIN, "image_size": 224}, {})
    (folder / "open_clip_model.safetensors").unlink()  # the config is enough
    coco, spec, out = make_tiny_coco(tmp_path / "tiny"), f"local-dir:{folder}", tmp_path / "own.yaml"
    files = OwnFiles(images=coco.images, annotations=coco.annotations)
    with pytest.raises(RecipeError, match="the trunk SwinTransformer.*propose.scoring: exhaustive.*--teacher offline"):
        make_recipe(files, ["bar"], out, spec, "cpu")
    assert not out.exists()
    make_recipe(files, ["bar"], out, TEACHER, "cpu")
    shutil.rmtree(coco.images)
    with pytest.raises(EzsdError) as caught:
        check_recipe(out, [f"teacher={spec}"])
    assert "in one pass: the trunk" in caught.value.problems[0] and "contains none of the" in caught.value.problems[1]
    with pytest.raises(RecipeError, match="in one pass: the trunk"):
        run_recipe(load_recipe(out, [f"teacher={spec}"]), tmp_path / "run")
    with pytest.raises(EzsdError) as caught:
        check_recipe(out, [f"teacher={spec}", "propose.scoring=exhaustive"])
    assert "in one pass" not in str(caught.value)


def test_the_norms_of_the_caption_decoder_of_coca_are_left_out(tmp_path: Path) -> None:
    vision = {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = {"width": 24, "embed_cls": True, "output_tokens": True, "context_length": 15}
    folder = _save(tmp_path / "coca", vision, text, multimodal_cfg=COCA, custom_text=True)
    teacher = load_teacher(f"local-dir:{folder}")
    norms = teacher.norm_parameters()
    assert norms and not any("text_decoder" in name for name in norms)
    for parameter in norms.values():
        parameter.requires_grad_(True)
    (teacher.encode_crops(torch.rand(2, 3, 32, 32)) @ teacher.encode_names(["cat", "dog"]).T)[:, 0].sum().backward()
    assert [name for name, parameter in norms.items() if parameter.grad is None] == []
