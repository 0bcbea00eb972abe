"""A run folder and a model folder of version 0.1.0 still load, resume and report."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from ezsd.errors import ArtifactError
from ezsd.inference.detector import Detector
from ezsd.pipeline.run import run_recipe, run_stage
from ezsd.recipe import load_run_recipe
from ezsd.report.compare import read_run
from ezsd.report.page import write_report

# Made with commit 8ace1d1 from tests/tiny.py. "finished" has all stages; "stopped" ends at step 2 of stage train.
# Backbone weights are set to 0 to keep the archive small.
ARCHIVE = Path(__file__).parents[1] / "fixtures" / "run_0.1.0.tar.xz"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    for path in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.yaml"), *tmp_path.rglob("*.html")]:
        path.write_text(path.read_text().replace("@ROOT@", str(tmp_path)))
    return tmp_path


def test_stopped_run_resumes_from_its_checkpoint(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = {path: path.stat().st_mtime_ns for path in (old / "stopped" / "targets").glob("*.arrow")}
    metrics = run_stage(old / "stopped", "train")
    assert metrics["train"].steps == 8
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    log = [json.loads(line) for line in (old / "stopped" / "train" / "log.jsonl").read_text().splitlines()]
    assert not log or log[0]["step"] > 2
    assert (old / "stopped" / "train" / "model" / "config.json").is_file()


def test_finished_run_is_not_repeated(old: Path) -> None:
    model = old / "finished" / "train" / "model" / "model.safetensors"
    before = model.stat().st_mtime_ns
    metrics = run_recipe(load_run_recipe(old / "finished" / "recipe.yaml"), old / "finished")
    assert set(metrics) == {"adapt", "propose", "train", "evaluate"}
    assert model.stat().st_mtime_ns == before


def test_report_is_written_and_inputs_are_read(old: Path) -> None:
    (old / "finished" / "report.html").unlink()
    page = write_report(old / "finished").read_text()
    assert "detections on val" in page
    assert read_run(old / "finished").inputs["detector.rois_per_image"] == 16


def test_old_model_detects(old: Path) -> None:
    detector = Detector.load(old / "finished" / "train" / "model", "cpu")
    image = next((old / "data" / "images").glob("*.jpg"))
    found = detector(image, ["circle", "something else"], threshold=0.0)
    assert set(found["class_name"]) <= {"circle", "something else"}


def test_changed_value_of_a_renamed_key_is_refused(old: Path) -> None:
    recipe = load_run_recipe(old / "finished" / "recipe.yaml")
    train = recipe.train.model_copy(update={"proposals_per_image": 3})
    with pytest.raises(ArtifactError, match="train.proposals_per_image was 5, is now 3"):
        run_recipe(recipe.model_copy(update={"train": train}), old / "finished")
