"""The teacher of a model is loaded for new names, but nothing foreign runs because a model names it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ezsd.cli import app
from ezsd.errors import ArtifactError
from ezsd.inference.detector import Detector
from ezsd.teacher import save_norms
from ezsd.teacher.origin import foreign
from ezsd.utils.files import read_tensors, write_tensors
from tiny import SPLIT
from tiny_run import make_model_folder, make_model_of_run
from tiny_teacher import TEACHER, ColourTeacher

NEW = ["traffic cone"]
TEXT = "a photo of a traffic cone"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A teacher whose module must not be imported."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "code_of_a_stranger.py").write_text("from tiny_teacher import ColourTeacher as make\n")
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.delitem(sys.modules, "code_of_a_stranger", raising=False)
    return "code_of_a_stranger:make"


def with_teacher(folder: Path, teacher: str) -> Path:
    """Change the teacher in config.json, and store its text embeddings, which are those of the teacher of the tests."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "teacher": teacher}))
    tensors, _ = read_tensors(folder / "model.safetensors")
    texts = [config["prompt"].replace("{name}", name) for name in SPLIT.names]
    write_tensors(folder / "model.safetensors", {**tensors, "text_embeddings": ColourTeacher().encode_names(texts)})
    return folder


def test_code_that_only_a_model_folder_names_is_not_imported(stranger: str, tmp_path: Path) -> None:
    folder = with_teacher(make_model_folder(tmp_path / "model"), stranger)
    detector = Detector.load(folder, "cpu")
    assert detector.embed().shape == (4, 16)
    with pytest.raises(ArtifactError, match="only if you name it: it is code.*--teacher code_of_a_stranger:make"):
        detector.embed(NEW)
    with pytest.raises(ArtifactError, match="only if you name it"):
        Detector.load(folder, "cpu", second_opinion="dense")
    assert "code_of_a_stranger" not in sys.modules


def test_code_is_loaded_if_the_user_names_it(stranger: str, tmp_path: Path) -> None:
    folder = with_teacher(make_model_folder(tmp_path / "model"), stranger)
    detector = Detector.load(folder, "cpu", teacher=stranger)
    torch.testing.assert_close(detector.embed(NEW), ColourTeacher().encode_names([TEXT]))


def test_code_is_loaded_if_the_recipe_of_the_run_names_it(
    stranger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_teacher(make_model_of_run(tmp_path / "run"), TEACHER)
    monkeypatch.chdir(folder.parent)
    for place in (tmp_path / "run", folder, Path("model")):
        torch.testing.assert_close(Detector.load(place, "cpu").embed(NEW), ColourTeacher().encode_names([TEXT]))
    with_teacher(folder, stranger)  # the recipe names another one
    for place in (tmp_path / "run", folder):
        with pytest.raises(ArtifactError, match="only if you name it"):
            Detector.load(place, "cpu").embed(NEW)
    assert "code_of_a_stranger" not in sys.modules


def test_another_teacher_than_that_of_the_model_is_refused(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "model")  # with random text embeddings
    with pytest.raises(ArtifactError, match="is not the teacher of the model.*circle"):
        Detector.load(folder, "cpu", teacher=TEACHER).embed(NEW)


def test_lost_norms_of_the_teacher_are_missed_only_for_other_names(tmp_path: Path) -> None:
    norms = tmp_path / "norms.safetensors"
    save_norms(ColourTeacher(), norms, ["image"])
    folder = with_teacher(make_model_of_run(tmp_path / "run", norms=norms), TEACHER)
    torch.testing.assert_close(Detector.load(folder, "cpu").embed(NEW), ColourTeacher().encode_names([TEXT]))
    (folder / "teacher_norms.safetensors").unlink()
    detector = Detector.load(folder, "cpu")
    assert detector.embed().shape == (4, 16)
    with pytest.raises(ArtifactError, match="no teacher_norms.safetensors.*own names of the model need no teacher"):
        detector.embed(NEW)


@pytest.mark.parametrize("teacher", ["offline", "pocket", "open_clip:ViT-B-32/openai"])
def test_teachers_of_packages_are_not_foreign(teacher: str) -> None:
    assert foreign(teacher) is None


def test_commands_take_the_teacher(stranger: str, tmp_path: Path) -> None:
    folder = with_teacher(make_model_folder(tmp_path / "model"), stranger)

    def export(*options: Any) -> Any:
        words = ["export", folder, tmp_path / "x.names.npz", "--vocabulary", NEW[0], *options]
        return CliRunner().invoke(app, [str(word) for word in words])

    assert export().exit_code == 2 and not (tmp_path / "x.names.npz").exists()
    assert export("--teacher", stranger).exit_code == 0 and (tmp_path / "x.names.npz").exists()
    for words in (
        ["detect", "x.onnx", ".", "--out", "y"],
        ["serve", "x.onnx"],
        ["label", "x.onnx", ".", "--to", "coco", "--out", "y"],
    ):
        result = CliRunner().invoke(app, [*words, "--teacher", stranger])
        assert result.exit_code == 2 and "takes no teacher" in result.stderr
        result = CliRunner().invoke(app, [*words, "--precision", "bf16"])
        assert result.exit_code == 2 and "has the precision it was exported with" in result.stderr
