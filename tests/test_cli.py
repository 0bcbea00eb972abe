"""Tests of the command line: exit codes, messages, and every command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

import ezsd
from ezsd.cli import app
from tiny import TinyCoco, make_tiny_coco
from tiny_run import make_model_of_run
from tiny_teacher import TEACHER, tiny_values

MAIN = [sys.executable, "-c", "from ezsd.cli import main; main()"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def coco(tmp_path: Path) -> TinyCoco:
    return make_tiny_coco(tmp_path / "data")


@pytest.fixture
def recipe(coco: TinyCoco, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_values(str(coco.images), str(coco.annotations))))
    return path


def _ezsd(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_run_and_stage_commands(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert _ezsd("run", recipe, "--out", folder, "--until", "adapt", "--set", "adapt.epochs=1").exit_code == 0
    assert (folder / "adapt/done.json").exists()
    for stage in ("adapt", "propose", "train"):
        assert _ezsd(stage, folder).exit_code == 0, stage
    result = _ezsd("evaluate", folder)
    assert result.exit_code == 0
    assert "gzsd AP50" in result.stdout
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["adapt"]["epochs"] == 1


def test_different_recipe_needs_overwrite(recipe: Path, tmp_path: Path) -> None:
    first = ("run", recipe, "--out", tmp_path / "run", "--until", "adapt")
    assert _ezsd(*first).exit_code == 0
    refused = _ezsd(*first, "--set", "seed=5")
    assert refused.exit_code == 2
    assert "seed was 0, is now 5" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert _ezsd(*first, "--set", "seed=5", "--overwrite").exit_code == 0


def test_validate_prints_a_summary_or_all_problems(recipe: Path, coco: TinyCoco) -> None:
    good = _ezsd("validate", recipe)
    assert good.exit_code == 0
    assert "OK: 2 base and 2 novel names" in good.stdout
    next(coco.images.iterdir()).unlink()
    bad = _ezsd("validate", recipe, "--set", "train.lr=-1")
    assert bad.exit_code == 2
    assert "train.lr = -1" in bad.stderr
    assert "the image does not exist" in bad.stderr


def test_init_writes_a_recipe_that_validates(coco: TinyCoco, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    result = _ezsd("init", "--images", coco.images, "--annotations", coco.annotations, "--novel", "bar, cone",
                   "--out", out, "--teacher", TEACHER)  # fmt: skip
    assert result.exit_code == 0
    assert "note: 6 train images are few" in result.stdout
    assert yaml.safe_load(out.read_text())["teacher"] == TEACHER
    assert f"ezsd run {out}" in result.stdout
    assert _ezsd("validate", out).exit_code == 0


def test_detect_writes_detections(coco: TinyCoco, tmp_path: Path) -> None:
    model = make_model_of_run(tmp_path / "run")
    images = sorted(coco.images.iterdir())[:2]
    out = tmp_path / "out"
    result = _ezsd("detect", model, *images, "--vocabulary", "circle, cone", "--out", out, "--threshold", 0.0)
    assert result.exit_code == 0, result.output
    written = json.loads((out / "detections.json").read_text())
    assert written["vocabulary"] == ["circle", "cone"]
    assert len(written["images"]) == 2


def test_errors_go_to_stderr_without_a_traceback(tmp_path: Path) -> None:
    command = [*MAIN, "run", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert "none.yaml cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_several_problems_are_listed_and_brackets_are_printed(recipe: Path) -> None:
    result = _ezsd("validate", recipe, "--set", "train.lr=[bold]", "--set", "seed=-1")
    assert result.exit_code == 2
    lines = result.stderr.partition("Error:\n")[2].splitlines()
    assert len(lines) == 2
    assert "train.lr = ['bold']" in lines[1]


@pytest.mark.parametrize("arguments", ["run x.yaml", "run x.yaml --out y --until tomorrow", "fly"])
def test_wrong_usage_exits_with_2(arguments: str) -> None:
    assert _ezsd(*arguments.split()).exit_code == 2


def test_version_help_and_recipe_errors_do_not_load_torch(recipe: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ezsd.cli import main\ntry:\n    main()\n"
        "finally:\n    assert 'torch' not in sys.modules, 'torch was loaded'"
    )

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)

    assert start("--version").stdout == f"ezsd {ezsd.__version__}\n"
    assert "Zero-shot object detection" in start("--help").stdout
    mistyped = start("run", str(recipe), "--out", str(tmp_path / "run"), "--set", "train.epoch=3")
    assert mistyped.returncode == 2
    assert "Did you mean train.epochs?" in mistyped.stderr
    assert "torch was loaded" not in mistyped.stderr


def test_without_torch_commands_say_what_is_missing(tmp_path: Path) -> None:
    code = "import sys\nsys.modules['torch'] = None\nfrom ezsd.cli import main\nmain()"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    command = [
        sys.executable,
        "-c",
        code,
        "detect",
        str(tmp_path),
        str(tmp_path / "a.png"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: torch is not installed, and this needs it: pip install ezsd")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to the whole console")
def test_ctrl_c_prints_how_to_resume(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [*MAIN, "run", str(recipe), "--out", str(folder), "--set", "train.epochs=1000"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore SIGINT
    )  # fmt: skip
    until = time.monotonic() + 400
    while not (folder / "train/checkpoints").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate()[1]
    assert process.returncode == 130
    assert "Run the same command again to resume" in stderr
    assert "Traceback" not in stderr
