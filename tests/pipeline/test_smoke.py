"""The smoke recipe on real images: all stages on the command line, with the offline teacher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ezsd.data.target_store import TargetStore

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "smoke.yaml"
KEYS = {
    "gzsd": {"ap50_base", "ap50_novel", "ap50_all", "harmonic_mean", "ap_base", "ap_novel", "ap_all"},
    "zsd": {"ap50", "ap"},
    "zsd_all_images": {"ap50", "ap"},
    "proposals": {"novel_recall_at_100", "novel_recall_at_300"},
    "teacher": {"accuracy_base_before", "accuracy_base_after", "accuracy_novel_before", "accuracy_novel_after"},
    "cost": {"adapt_s", "propose_s", "train_s", "teacher_crops", "teacher_dense_passes", "target_bytes"},
}


def _ezsd(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "ezsd", *arguments], check=True, timeout=900, env={**os.environ})


@pytest.mark.slow
@pytest.mark.real_data
def test_smoke_recipe_writes_a_complete_run_folder_and_a_working_model(shared_data: Path, tmp_path: Path) -> None:
    images = shared_data / "coco2k"
    paths = [
        f"data.{part}.{key}={images / name}"
        for part in ("train", "val")
        for key, name in (("images", "images"), ("annotations", f"instances_{part}.json"))
    ]
    run = tmp_path / "smoke"
    _ezsd("run", str(RECIPE), "--out", str(run), *(word for path in paths for word in ("--set", path)))
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    assert {key: set(metrics[key]) for key in KEYS} == KEYS
    assert metrics["setting"] == "named" and metrics["split"] == "coco_48_17"
    assert metrics["counts"]["images"] == 20 and metrics["counts"]["boxes_novel"] > 0
    assert all(value > 0 for value in metrics["cost"].values())
    assert all(0 < value < 1 for value in metrics["teacher"].values())
    assert TargetStore(run / "targets").damaged() == []
    log = [json.loads(line) for line in (run / "train" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"]
    image = sorted((images / "images").iterdir())[0]
    _ezsd("detect", str(run), str(image), "--vocabulary", "cat, zeppelin", "--out", str(tmp_path / "found"))
    assert (tmp_path / "found" / "detections.json").is_file()
