"""Comparison of runs: which runs are comparable, and that all output formats contain the values of metrics.json."""

from __future__ import annotations

import csv
import io
import json
import shlex
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ezsd.cli import app
from ezsd.errors import ArtifactError
from ezsd.report.compare import as_csv, as_html, as_text, compare, read_run
from ezsd.report.figures import FIGURES
from finished_run import make_finished_run
from tiny import make_tiny_coco


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    coco = make_tiny_coco(tmp_path / "data")

    def made(name: str, **changes: Any) -> Path:
        return make_finished_run(tmp_path / name, coco, **changes)

    return made


def _text(table: Any, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(as_text(table, width))
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def test_csv_contains_the_exact_values_of_metrics_json(make: Callable[..., Path]) -> None:
    folders = [make("one"), make("two", ap50_novel=1.0625, train__lr=0.5)]
    rows = list(csv.DictReader(io.StringIO(as_csv(compare(folders)))))
    assert [row["run"] for row in rows] == ["one", "two"]
    for row, folder in zip(rows, folders, strict=True):
        metrics = json.loads((folder / "evaluate/metrics.json").read_text())
        metrics["cost"]["evaluate_s"] = 6.0
        for section in ("gzsd", "zsd", "zsd_all_images", "proposals", "teacher", "cost"):
            for key, value in metrics[section].items():
                if key not in ("ap_base", "ap_novel", "ap_all"):
                    assert row[f"{section}.{key}"] == ("" if value is None else str(value)), key
        assert (row["setting"], row["split"]) == (metrics["setting"], metrics["split"])


def test_the_command_that_finishes_a_run_can_be_copied(make: Callable[..., Path]) -> None:
    folder = make("my run")
    (folder / "evaluate/done.json").unlink()
    with pytest.raises(ArtifactError) as error:
        read_run(folder)
    assert shlex.split(str(error.value))[-3:] == ["ezsd", "evaluate", str(folder)]


@pytest.mark.parametrize("width", [60, 200])
def test_text_shows_metrics_missing_values_and_recipe_differences(make: Callable[..., Path], width: int) -> None:
    text = _text(compare([make("one"), make("two", ap50_novel=None, train__lr=0.5)]), width)
    assert text.count("AP50 novel") == (2 if width == 60 else 1)
    assert "12.5" in text and "not measured" in text
    assert "train.lr" in text and "0.5" in text
    assert "train.epochs" not in text and "sha256" not in text
    assert "rare" not in text  # a metric that no run has


def test_html_is_one_page_with_the_same_metrics(make: Callable[..., Path]) -> None:
    page = as_html(compare([make("one"), make("two", ap50_novel=None, setting="strict")], mixed=True))
    assert page.startswith("<!doctype html>")
    assert ">12.5<" in page and "not measured" in page
    assert "http" not in page and "<script" not in page
    assert "The runs have different settings" in page


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"setting": "strict"}, "different settings: one: named"),
        ({"split": {"base": ["circle"], "novel": ["bar"]}}, "different splits"),
        ({"data__val": {"limit": 3}}, "different val images"),
    ],
)
def test_incomparable_runs_are_refused_without_mixed(
    make: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    if "data__val" in changes:
        part = {"images": str(tmp_path / "data/images"), "annotations": str(tmp_path / "data/instances.json")}
        changes = {"data__val": {**part, "limit": 3}}
    folders = [make("one"), make("two", **changes)]
    with pytest.raises(ArtifactError, match=expected) as caught:
        compare(folders)
    assert "--mixed" in str(caught.value)
    table = compare(folders, mixed=True)
    assert expected in table.warnings[0]
    assert "Warning" in _text(table)


def test_runs_with_different_seeds_become_mean_and_standard_deviation(make: Callable[..., Path]) -> None:
    values = [10.0, 14.0, 15.0]
    folders = [make(f"full-seed{seed}", seed=seed, ap50_novel=value) for seed, value in enumerate(values)]
    table = compare([*folders, make("other", train__lr=0.5)], mean=True)
    first, second = table.columns
    assert (first.name, first.runs, second.name, second.runs) == ("full (3 seeds)", 3, "other", 1)
    assert first.values["gzsd.ap50_novel"] == statistics.fmean(values)
    assert first.spreads["gzsd.ap50_novel"] == statistics.stdev(values)
    assert first.values["proposals.novel_recall_at_300"] is None
    assert "13.0 ± 2.6" in _text(table)
    row = next(csv.DictReader(io.StringIO(as_csv(table))))
    assert float(row["gzsd.ap50_novel.std"]) == pytest.approx(statistics.stdev(values))
    assert ("seed", ("0, 1, 2", "0")) in table.recipes


def test_metric_that_one_seed_lacks_has_no_mean(make: Callable[..., Path]) -> None:
    table = compare([make("a0", seed=0), make("a1", seed=1, ap50_novel=None)], mean=True)
    assert table.columns[0].values["gzsd.ap50_novel"] is None
    assert table.columns[0].values["gzsd.ap50_base"] == 40.0


def test_mean_of_the_same_run_twice_is_refused(make: Callable[..., Path]) -> None:
    folder = make("one")
    with pytest.raises(ArtifactError, match="same recipe and the same seed"):
        compare([folder, folder], mean=True)


def test_folders_with_the_same_name_include_their_parent(make: Callable[..., Path]) -> None:
    table = compare([make("a/run"), make("b/run", train__lr=0.5)])
    assert [column.name for column in table.columns] == ["a/run", "b/run"]


def test_all_unfinished_runs_are_reported(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make("one")
    (folder / "evaluate/done.json").unlink()
    with pytest.raises(ArtifactError) as caught:
        compare([folder, tmp_path / "nothing"])
    assert f"Run: ezsd evaluate {folder}" in str(caught.value)
    assert "is not a run folder" in str(caught.value)


def test_differences_have_a_sign(make: Callable[..., Path]) -> None:
    figures = {figure.key: figure for figure in FIGURES}
    ap50, crops = figures["gzsd.ap50_novel"], figures["cost.teacher_crops"]
    assert ap50.difference(2.0, 3.5) == "\N{MINUS SIGN}1.5"
    assert ap50.difference(3.52, 3.5) == "±0"
    assert ap50.difference(None, 3.5) == ""
    assert crops.difference(1200, 200) == "+1,000"
    assert read_run(make("one")).values[ap50.key] == 12.5


def test_compare_command_writes_text_csv_and_html(make: Callable[..., Path], tmp_path: Path) -> None:
    folders = [str(make("one")), str(make("two", setting="strict"))]
    refused = CliRunner().invoke(app, ["compare", *folders])
    assert refused.exit_code == 2
    assert "different settings" in refused.stderr
    files = {"--csv": tmp_path / "table.csv", "--html": tmp_path / "table.html"}
    options = [str(word) for pair in files.items() for word in pair]
    done = CliRunner().invoke(app, ["compare", *folders, "--mixed", *options])
    assert done.exit_code == 0
    assert "AP50 novel" in done.stdout
    assert files["--csv"].read_text().startswith("run,runs,setting,split,gzsd.ap50_novel")
    assert "<table" in files["--html"].read_text()
