"""Models go to a hub and come back from it, pinned, without pickle and code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ezsd.errors import ArtifactError
from ezsd.hub import upload
from ezsd.hub.download import download_model, is_repository
from ezsd.inference.detector import Detector
from ezsd.teacher import save_norms
from ezsd.utils.files import read_tensors, write_json
from finished_run import make_finished_run
from stub_hub import StubHub, running_hub
from tiny import make_tiny_coco
from tiny_run import make_model_folder
from tiny_teacher import TEACHER, ColourTeacher


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    from huggingface_hub import constants

    with running_hub() as stub:
        monkeypatch.setattr(constants, "ENDPOINT", stub.url)
        template = stub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield stub


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "text"))


def _norms(folder: Path, teacher: str) -> Path:
    path, adapted = folder / "norms.safetensors", ColourTeacher()
    adapted.name = teacher
    save_norms(adapted, path, ("image", "text"))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = make_finished_run(tmp_path / "run", make_tiny_coco(tmp_path / "data"))
    make_model_folder(folder / "train/model", norms=_norms(tmp_path, TEACHER))
    write_json(folder / "train/model/thresholds.json", {"other": 0.05, "names": {"circle": 0.02, "bar": 0.9}})
    return folder


def test_a_pushed_model_is_loaded_by_its_name(hub: StubHub, run: Path) -> None:
    pinned = upload.push_to_hub(run, "org/shapes", license_name="apache-2.0")
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    expected = Detector.load(run, "cpu")
    for name in ("org/shapes", pinned):
        found = Detector.load(name, "cpu")
        assert found(image) == expected(image) and len(found(image))
        assert found(image, threshold=0.0) == expected(image, threshold=0.0)
    created = json.loads(next(request for request in hub.requests if request.startswith("{")))
    assert created.get("visibility") == "private" or created.get("private") is True


def test_all_files_of_a_model_folder_are_uploaded_and_downloaded(hub: StubHub, run: Path) -> None:
    repo_id, _, commit = upload.push_to_hub(run, "org/shapes").partition("@")
    files = {path.name for path in (run / "train/model").iterdir()}
    assert files == {"model.safetensors", "config.json", "teacher_norms.safetensors", "thresholds.json"}
    assert set(hub.commits[repo_id][commit]) == files | {"README.md", ".gitattributes"}
    downloaded = download_model("org/shapes")
    assert {path.name for path in downloaded.iterdir()} == files
    assert Detector.load("org/shapes", "cpu").thresholds.names == {"circle": 0.02, "bar": 0.9}


@pytest.mark.parametrize("name", ["thresholds.json", "teacher_norms.safetensors"])
def test_a_repository_without_an_optional_file_is_loaded(name: str, hub: StubHub, run: Path) -> None:
    (run / "train/model" / name).unlink()
    pinned = upload.push_to_hub(run, "org/shapes")
    for _ in range(2):  # from the hub, then from the cache
        assert not (download_model(pinned) / name).exists()


def test_optional_files_of_an_earlier_model_do_not_stay_in_the_repository(hub: StubHub, run: Path) -> None:
    first = upload.push_to_hub(run, "org/shapes")
    for name in ("thresholds.json", "teacher_norms.safetensors"):
        (run / "train/model" / name).unlink()
    upload.push_to_hub(run, "org/shapes")
    assert {path.name for path in download_model("org/shapes").iterdir()} == {"model.safetensors", "config.json"}
    assert (download_model(first) / "thresholds.json").is_file()


def test_the_card_has_the_figures_and_terms_of_the_run(hub: StubHub, run: Path) -> None:
    repo_id, _, commit = upload.push_to_hub(run, "org/shapes", license_name="apache-2.0").partition("@")
    card = hub.commits[repo_id][commit]["README.md"].decode()
    about = yaml.safe_load(card.split("---")[1])
    assert (about["library_name"], about["license"]) == ("ezsd", "apache-2.0")
    for text in ("| novel, with base names (gzsd) | 12.5 | 6.0 |", "Setting: named", "Base: circle, square.",
                 "Novel: triangle, bar.", "`instances.json`", "8 images", "These weights: apache-2.0",
                 "40 boxes of base categories only",
                 "adaptation, 25.0 %", "1,200", 'Detector.load("org/shapes")'):  # fmt: skip
        assert text in card, text
    assert str(run.parent) not in card


@pytest.mark.parametrize("teacher", ["local-dir:{}/clip", "open_clip:ViT-B-32/{}/openai"])
def test_no_path_of_this_machine_is_uploaded(teacher: str, hub: StubHub, tmp_path: Path) -> None:
    coco, teacher = make_tiny_coco(tmp_path / "data"), teacher.format(tmp_path)
    run = make_finished_run(tmp_path / "run", coco, teacher=teacher)
    make_model_folder(run / "train/model", norms=_norms(tmp_path, teacher), start_from=f"{tmp_path}/other/train/model")
    path = run / "train/model/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "teacher": teacher}))
    repo_id, _, commit = upload.push_to_hub(run, "org/shapes").partition("@")
    files = hub.commits[repo_id][commit]
    assert [name for name, content in files.items() if str(tmp_path).encode() in content] == []
    assert str(tmp_path) in path.read_text()  # the run itself still knows its teacher
    published = teacher.replace(str(tmp_path), "PATH")
    assert json.loads(files["config.json"])["teacher"] == published
    card = files["README.md"].decode()
    named = published.rpartition("/")[0]
    assert f"Teacher: `{published}`" in card and f'Detector.load("org/shapes", teacher="{named}")' in card
    downloaded = download_model("org/shapes")
    assert read_tensors(downloaded / "teacher_norms.safetensors")[1] == {
        **read_tensors(run / "train/model/teacher_norms.safetensors")[1], "teacher": published,
    }  # fmt: skip
    with pytest.raises(ArtifactError, match=f"--teacher {named}"):
        Detector.load("org/shapes", "cpu").embed(["traffic cone"])


def test_the_card_describes_a_teacher_that_only_this_machine_has(hub: StubHub, tmp_path: Path) -> None:
    vision = {"timm_model_name": "vit_base_patch16_siglip_224", "image_size": 224, "timm_pool": "map"}
    (tmp_path / "clip").mkdir()
    write_json(tmp_path / "clip/open_clip_config.json", {"model_cfg": {"vision_cfg": vision}})
    teacher = f"local-dir:{tmp_path}/clip"
    run = make_finished_run(tmp_path / "run", make_tiny_coco(tmp_path / "data"), teacher=teacher)
    path = make_model_folder(run / "train/model") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "teacher": teacher}))
    repo_id, _, commit = upload.push_to_hub(run, "org/shapes").partition("@")
    card = hub.commits[repo_id][commit]["README.md"].decode()
    assert "timm_model_name vit_base_patch16_siglip_224, image_size 224" in card


@pytest.mark.parametrize("setting", ["strict", "named", "few_shot", "open"])
def test_the_card_explains_every_setting(setting: str, hub: StubHub, run: Path) -> None:
    path = run / "train/model/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "setting": setting}))
    repo_id, _, commit = upload.push_to_hub(run, "org/shapes").partition("@")
    found = re.search(rf"Setting: {setting} \((.*)\)\.", hub.commits[repo_id][commit]["README.md"].decode())
    assert found and setting not in found[1] and len(found[1].split()) > 5


def test_the_card_names_few_shot_categories(hub: StubHub, tmp_path: Path) -> None:
    split = {"base": ["circle", "square"], "novel": ["triangle", "bar"], "few_shot": ["bar"]}
    run = make_finished_run(tmp_path / "run", make_tiny_coco(tmp_path / "data"), split=split)
    make_model_folder(run / "train/model")
    repo_id, _, commit = upload.push_to_hub(run, "org/shapes").partition("@")
    card = hub.commits[repo_id][commit]["README.md"].decode()
    assert "40 boxes of base categories and of bar" in card and "a few boxes of bar" in card
    assert "base categories only" not in card and "names alone. It takes" not in card


def test_a_run_that_was_not_evaluated_says_so(hub: StubHub, run: Path) -> None:
    (run / "evaluate/metrics.json").unlink()
    repo_id, _, commit = upload.push_to_hub(run, "org/shapes").partition("@")
    assert (
        "| novel names alone (zsd) | not measured | not measured |"
        in hub.commits[repo_id][commit]["README.md"].decode()
    )


def test_a_commit_pins_the_content_and_needs_no_network_later(hub: StubHub, run: Path) -> None:
    first = upload.push_to_hub(run, "org/shapes")
    make_model_folder(run / "train/model", seed=5)
    second = upload.push_to_hub(run, "org/shapes")
    assert first != second
    weights = [(download_model(name) / "model.safetensors").read_bytes() for name in (first, second, "org/shapes")]
    assert weights[0] != weights[1] == weights[2]
    del hub.requests[:]
    assert (download_model(first) / "model.safetensors").read_bytes() == weights[0]
    assert not hub.requests


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling.py", "weights/x.PT", "model.pkl"])
def test_repositories_with_pickle_or_code_are_refused_before_any_download(name: str, hub: StubHub, run: Path) -> None:
    upload.push_to_hub(run, "org/shapes")
    hub.add("org/shapes", {name: b"x"})
    del hub.requests[:]
    with pytest.raises(ArtifactError, match=f"{name}, which can run code"):
        Detector.load("org/shapes", "cpu")
    assert not [request for request in hub.requests if "safetensors" in request]


@pytest.mark.parametrize(
    "teacher, named",
    [
        ("code_of_a_stranger:make", "code_of_a_stranger:make"),
        ("hf-hub:org/teacher", "hf-hub:org/teacher"),
        ("local-dir:teacher", "local-dir:PATH"),
        ("open_clip:ViT-B-32/weights.pt", "open_clip:ViT-B-32/PATH"),
    ],
)
def test_what_a_repository_names_as_teacher_is_not_loaded_unless_the_user_names_it(
    teacher: str, named: str, hub: StubHub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload.push_to_hub(run, "org/shapes")
    config = json.loads((run / "train/model/config.json").read_text())
    hub.add("org/shapes", {"config.json": json.dumps({**config, "teacher": teacher}).encode()})
    loaded: list[str] = []

    def load(name: str, *_: Any) -> ColourTeacher:
        loaded.append(name)
        return ColourTeacher()

    monkeypatch.setattr("ezsd.inference.model_teacher.load_teacher", load)
    detector = Detector.load("org/shapes", "cpu")
    assert detector.embed().shape == (4, 16)
    with pytest.raises(ArtifactError, match=f"{teacher}, which is loaded only if you name it.*--teacher {named}"):
        detector.embed(["traffic cone"])
    assert not loaded
    monkeypatch.setattr("ezsd.inference.model_teacher._SAME", -1.0)  # the model of the tests has random embeddings
    assert Detector.load("org/shapes", "cpu", teacher="mine:make").embed(["traffic cone"]).shape == (1, 16)
    assert loaded == ["mine:make"]


def test_the_teacher_of_a_package_is_loaded_because_a_repository_names_it(
    hub: StubHub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload.push_to_hub(run, "org/shapes")
    config = json.loads((run / "train/model/config.json").read_text())
    hub.add("org/shapes", {"config.json": json.dumps({**config, "teacher": "open_clip:ViT-B-32/openai"}).encode()})
    monkeypatch.setattr("ezsd.inference.model_teacher.load_teacher", lambda *_: ColourTeacher())
    assert Detector.load("org/shapes", "cpu").embed(["traffic cone"]).shape == (1, 16)


def test_missing_repositories_and_other_models_are_reported(hub: StubHub, run: Path) -> None:
    with pytest.raises(ArtifactError, match="neither a folder here nor a model on the hub"):
        Detector.load("org/none", "cpu")
    hub.add("org/other", {"model.safetensors": b"x"})
    with pytest.raises(ArtifactError, match="no config.json"):
        Detector.load("org/other", "cpu")
    upload.push_to_hub(run, "org/shapes")
    with pytest.raises(ArtifactError, match="org/shapes@v2"):
        Detector.load("org/shapes@v2", "cpu")


def test_only_names_that_are_no_paths_are_repositories(run: Path) -> None:
    assert is_repository("org/name") and is_repository("org/name@v1.0")
    assert not is_repository(str(run)) and not is_repository("model") and not is_repository("a/b/c")


def test_folders_without_a_model_are_not_pushed(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ArtifactError, match="not a run folder"):
        upload.push_to_hub(tmp_path, "org/name")
    (run / "train/model/config.json").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        upload.push_to_hub(run, "org/name")
