"""Options of all commands: what is shown, what is kept in run.log, recipes by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from ezsd.cli import app
from ezsd.recipe_files import find_preset, shipped_presets, shipped_recipes
from tiny import make_tiny_coco
from tiny_teacher import tiny_values


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    coco = make_tiny_coco(tmp_path / "data")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_values(str(coco.images), str(coco.annotations))))
    return path


def _ezsd(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_quiet_shows_warnings_only_and_the_log_keeps_everything(recipe: Path, tmp_path: Path) -> None:
    result = _ezsd("-q", "run", recipe, "--out", tmp_path / "run", "--until", "adapt")
    assert result.exit_code == 0 and result.stderr == ""
    log = (tmp_path / "run" / "run.log").read_text()
    assert "INFO ezsd.pipeline.run: adapt: finished in" in log and "INFO ezsd.pipeline.adapt: adapt:" in log


def test_info_is_the_default_and_verbose_adds_details(recipe: Path, tmp_path: Path) -> None:
    changes = ("--until", "train", "--set", "train.epochs=5")
    plain = _ezsd("run", recipe, "--out", tmp_path / "plain", *changes)
    verbose = _ezsd("-v", "run", recipe, "--out", tmp_path / "verbose", *changes)
    assert plain.exit_code == verbose.exit_code == 0
    assert "train: finished in" in plain.stderr and "step 10:" not in plain.stderr
    assert "step 10:" in verbose.stderr
    errors = _ezsd("--log-level", "error", "run", recipe, "--out", tmp_path / "plain", *changes)
    assert errors.exit_code == 0 and errors.stderr == ""


def test_a_second_call_is_added_to_the_log_of_the_run(recipe: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert _ezsd("run", recipe, "--out", tmp_path / "run", "--until", "adapt").exit_code == 0
    log = (tmp_path / "run" / "run.log").read_text()
    assert log.count("adapt: finished in") == 1 and log.count("adapt: already finished") == 1


def test_skipped_images_are_a_warning_shown_once(recipe: Path, tmp_path: Path) -> None:
    image = next((tmp_path / "data" / "images").glob("*.jpg"))
    image.unlink()
    result = _ezsd("run", recipe, "--out", tmp_path / "run", "--until", "adapt", "--set", "data.skip_bad=true")
    assert result.exit_code == 0
    assert result.stderr.count("invalid images or boxes are left out") == 1


def test_recipes_lists_every_shipped_recipe_and_preset_with_its_command() -> None:
    result = _ezsd("recipes")
    assert result.exit_code == 0
    assert all(f"ezsd run {name} --out " in result.stdout for name in shipped_recipes())
    assert all(f"--preset {name}\n" in result.stdout for name in shipped_presets())


def test_a_shipped_recipe_is_used_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = _ezsd("validate", "smoke")
    assert result.exit_code == 2 and "instances_train.json" in result.stderr  # the recipe was read, its data is missing
    unknown = _ezsd("run", "smok", "--out", tmp_path / "run")
    assert unknown.exit_code == 2 and 'Did you mean "smoke"?' in unknown.stderr
    assert not (tmp_path / "run").exists()


def test_an_installed_package_finds_its_own_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ezsd.recipe_files

    (tmp_path / "ezsd" / "recipes").mkdir(parents=True)
    shutil.copy(shipped_recipes()["smoke"], tmp_path / "ezsd" / "recipes" / "smoke.yaml")
    shutil.copytree(shipped_presets()["paper"].parent, tmp_path / "ezsd" / "recipes" / "presets")
    monkeypatch.setattr(ezsd.recipe_files, "__file__", str(tmp_path / "ezsd" / "recipe_files.py"))
    assert shipped_recipes() == {"smoke": tmp_path / "ezsd" / "recipes" / "smoke.yaml"}
    assert find_preset("paper") == tmp_path / "ezsd" / "recipes" / "presets" / "paper.yaml"


def test_run_applies_a_preset_before_the_changes(recipe: Path, tmp_path: Path) -> None:
    changes = ("--set", "adapt.share=0.5", "--until", "adapt")
    assert _ezsd("run", recipe, "--out", tmp_path / "run", "--preset", "paper", *changes).exit_code == 0
    resolved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert (resolved["adapt"]["share"], resolved["adapt"]["jitter"], resolved["propose"]["keep"]) == (0.5, 0.0, 300)


@pytest.mark.parametrize("command", ["run", "validate", "plan"])
def test_every_command_with_a_recipe_takes_a_preset(command: str, recipe: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "run") if command == "run" else ()
    result = _ezsd(command, recipe, *options, "--preset", "papr")
    assert result.exit_code == 2 and 'Did you mean "paper"?' in result.stderr
    bad = _ezsd(command, recipe, *options, "--preset", "paper", "--set", "train.lr=-1")
    assert bad.exit_code == 2 and "train.lr = -1" in bad.stderr


def test_options_of_ray_without_ray_are_refused(recipe: Path, tmp_path: Path) -> None:
    for command in (("run", recipe, "--out", tmp_path / "run"), ("propose", tmp_path / "run")):
        result = _ezsd(*command, "--address", "auto")
        assert result.exit_code == 2 and "belong to --engine ray" in result.stderr


def test_unreachable_ray_is_an_error_before_anything_is_written(recipe: Path, tmp_path: Path) -> None:
    result = _ezsd("run", recipe, "--out", tmp_path / "run", "--engine", "ray", "--address", "ezsd.invalid:6379")
    assert result.exit_code == 2 and "Ray at ezsd.invalid:6379 cannot be used" in result.stderr
    assert not (tmp_path / "run").exists()
