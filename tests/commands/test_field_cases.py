"""Data sets as people have them: each case of ``field_cases`` ends as its table says, by ``init`` and ``validate``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ezsd.cli import app
from ezsd.pipeline.run import run_recipe
from ezsd.recipe import load_recipe, parse_recipe
from ezsd.run_metrics import EvaluateMetrics
from ezsd.utils.format import counted
from tiny_teacher import TEACHER, tiny_values

pytestmark = pytest.mark.real_data


_MOST_LETTERS = 150  # of a line in the table


@dataclass(frozen=True)
class Verdict:
    """What must be said.

    Attributes:
        init: Texts in the output of ``ezsd init``.
        validate: Texts in the output of ``ezsd validate``; empty if ``init`` refuses.
        refused: Which command refuses, "" for none.
    """

    init: tuple[str, ...] = ()
    validate: tuple[str, ...] = ("OK: ",)
    refused: str = ""


def _refused(*texts: str) -> Verdict:
    return Verdict(texts, (), "init")


FOUND = Verdict(("are found under another name than in the annotations",))
SIZES = Verdict(("no usable width and height",))
CASES = {
    "00-control": Verdict(),
    "01-roboflow-parent-same-name": Verdict(),
    "02-roboflow-parent": Verdict(('are ignored: "my-things"',)),
    "03-via-size-minus-one": SIZES,
    "03b-size-zero": SIZES,
    "03c-size-null": SIZES,
    "04-windows-backslash": FOUND,
    "04b-upload-prefix": FOUND,
    "04c-url-encoded": FOUND,
    "04d-nfc-nfd": FOUND,
    "05-azure-normalised": _refused("numbers between 0 and 1", "fractions of the image", "--box-format xywh-fraction"),
    "06-iscrowd-string": Verdict(),
    "06b-iscrowd-string-half": Verdict(),
    "07-annotation-ids-zero": Verdict(),
    "08-cvat-all-crowd": _refused("8 of 8 boxes are crowds", "export polygons"),
    "08b-cvat-most-crowd": Verdict(("6 of 9 boxes are crowds (iscrowd 1)",), ("6 of 9 boxes are crowds (iscrowd 1)",)),
    "09-segmentation-empty-list": Verdict(),
    "09b-segmentation-flat": Verdict(),
    "09c-segmentation-nan": Verdict(),
    "10-coco-zero-height": Verdict(("without width or height are left out; 1 in all", "annotation 2206849 (person")),
    "11-lvis-init": Verdict(),
    "12-string-image-ids": Verdict(("Image ids that are text", "'000001' is 1")),
    "12b-float-ids": Verdict(),
    "12d-size-float-string": Verdict(),
    "12e-bbox-strings": Verdict(),
    "13-names-spaces-underscores": Verdict(),
    "13b-names-numbers": _refused("categories[0]", "The name is a number"),
    "13c-names-comma": Verdict(),
    "14-utf8-bom": Verdict(),
    "15-roboflow-layout": Verdict(
        ("found COCO JSON, from train/_annotations.coco.json, valid/_annotations.coco.json",)
    ),
    "16-xyxy": _refused("do not fit as x, y, width, height, but as xyxy", "--box-format xyxy"),
    "17-exif6-upright": Verdict(("2 of 2 images are turned by their EXIF orientation",)),
    "17b-exif6-swapped": _refused("EXIF orientation 6 turns it"),
    "17c-exif6-raw": _refused("EXIF orientation 6 turns it"),
    "17d-exif3-raw": Verdict(("2 of 2 images are turned by their EXIF orientation", "read as those of the upright")),
    "21-null-annotation": Verdict(("annotations[0]",), ("annotations[0]: unknown category_id in None",), "validate"),
    "22-iscrowd-false-text": Verdict(),
    "23-area-list": Verdict(),
    "24-size-zero-two-of-three": SIZES,
    "25-segmentation-two-empty": Verdict(),
    "27-parent-same-name-chair": Verdict(),
    "28-timestamp-ids": Verdict(("Image ids that are text, negative or above 2^53",)),
    "29-transparent-png": Verdict(),
    "31-exif6-tiff-upright": Verdict(("2 of 2 images are turned by their EXIF orientation",)),
}
ELSEWHERE = {  # cases about names and processes, not files, and the tests of them
    "32-emoji-names": "tests/commands/test_detect.py: names that the teacher cannot tell apart are noted",
    "33-spawn-script": "tests/utils/test_workers.py: a script without main guard gets one message",
    "34-small-shm": "tests/commands/test_field_cases.py: the run stops and names the setting",
}
_SMALL = 'mount -t tmpfs -o size=16m tmpfs /dev/shm && exec "$@"'  # less than one batch of the case


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CliRunner]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EZSD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield CliRunner()


def test_every_case_has_a_verdict(shared_data: Path) -> None:
    cases = {path.name for path in (shared_data / "field_cases").iterdir() if path.is_dir()}
    assert cases == CASES.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_of_a_field_case(case: str, shared_data: Path, tmp_path: Path, runner: CliRunner) -> None:
    verdict, out = CASES[case], tmp_path / "my recipe.yaml"
    options = ["--novel", "umbrella, dog", "--teacher", TEACHER, "--out", str(out), "--for", "cpu"]
    made = runner.invoke(app, ["init", str(shared_data / "field_cases" / case), *options])
    assert made.exit_code == (2 if verdict.refused == "init" else 0), made.output
    for text in verdict.init:
        assert text in made.output
    if verdict.refused == "init":
        assert not list(tmp_path.iterdir())
        return
    assert f"next: ezsd validate '{out}'" in made.output
    checked = runner.invoke(app, ["validate", str(out)])
    assert checked.exit_code == (2 if verdict.refused == "validate" else 0), checked.output
    for text in verdict.validate:
        assert text in checked.output
    if not verdict.refused:
        assert len(_counts(made)) == 2 and _counts(made) == _counts(checked)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is of Linux")
def test_a_run_with_little_shared_memory_stops_and_names_the_setting(shared_data: Path, tmp_path: Path) -> None:
    alone = ["unshare", "--map-root-user", "--mount", "bash", "-c", _SMALL, "bash"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no /dev/shm of its own can be mounted here")
    text = (shared_data / "field_cases" / "34-small-shm" / "recipe.yaml").read_text()
    text = text.replace("../../coco_masks", str(shared_data / "coco_masks")).replace("per_photo", "per_image")
    (tmp_path / "recipe.yaml").write_text(text)
    command = [sys.executable, "-m", "ezsd", "run", "recipe.yaml", "--out", "r", "--until", "train"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "EZSD_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*alone, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2 and "Traceback" not in said, said
    assert "Shared memory" in said and "is too small" in said and "data.workers: 0" in said and "--shm-size" in said


@pytest.mark.slow
def test_accepted_cases_run_to_the_end_and_the_table_is_written(
    shared_data: Path, tmp_path: Path, runner: CliRunner
) -> None:
    """A tiny run of each accepted case; the verdicts are written to the file EZSD_FIELD_TABLE, if it is set."""
    table = os.environ.get("EZSD_FIELD_TABLE", os.devnull)
    rows = ["| case | init | validate | tiny run |", "| --- | --- | --- | --- |"]
    for case, verdict in CASES.items():
        out = tmp_path / case / "recipe.yaml"
        options = ["--novel", "umbrella, dog", "--teacher", TEACHER, "--out", str(out), "--for", "cpu"]
        made = runner.invoke(app, ["init", str(shared_data / "field_cases" / case), *options])
        cells = [case, _line(made, verdict.init, "found train")]
        if verdict.refused != "init":
            cells.append(_line(runner.invoke(app, ["validate", str(out)]), verdict.validate, "OK"))
        if not verdict.refused:
            cells.append(f"finished, {counted(_tiny_run(out), 'val image')}")
        rows.append(f"| {' | '.join([*cells, *['-'] * (4 - len(cells))])} |")
        Path(table).write_text("\n".join(rows) + "\n")  # after each case, because all of them take minutes
    rows += [f"| {case} | not about files: {test} | - | - |" for case, test in ELSEWHERE.items()]
    Path(table).write_text("\n".join(rows) + "\n")


@pytest.mark.slow
def test_the_layout_of_coco_runs_to_the_end(shared_data: Path, tmp_path: Path, runner: CliRunner) -> None:
    own, home = shared_data / "aquarium", tmp_path / "coco"
    (home / "annotations").mkdir(parents=True)
    for part, year in (("train", "train2017"), ("valid", "val2017")):
        shutil.copyfile(own / f"instances_{part}.json", home / "annotations" / f"instances_{year}.json")
        content = json.loads((home / "annotations" / f"instances_{year}.json").read_text())
        (home / year).mkdir()
        for entry in content["images"]:
            (home / year / entry["file_name"]).symlink_to(own / "images" / entry["file_name"])
    out = tmp_path / "recipe.yaml"
    made = runner.invoke(
        app, ["init", str(home), "--novel", "jellyfish", "--teacher", TEACHER, "--out", str(out), "--for", "cpu"]
    )
    assert made.exit_code == 0, made.output
    data = load_recipe(out).data
    assert (data.train.images, data.val.images) == (home / "train2017", home / "val2017")
    assert _tiny_run(out, limit=8) == 8


@pytest.mark.slow
@pytest.mark.parametrize("name, found", [("aquarium_yolo", "YOLO, from data.yaml"), ("aquarium", "COCO JSON, from")])
def test_downloaded_data_sets_run_to_the_end(
    name: str, found: str, shared_data: Path, tmp_path: Path, runner: CliRunner
) -> None:
    out = tmp_path / "recipe.yaml"
    options = ["--novel", "jellyfish, starfish, stingray", "--teacher", TEACHER, "--out", str(out), "--for", "cpu"]
    made = runner.invoke(app, ["init", str(shared_data / name), *options])
    assert made.exit_code == 0 and f"found {found}" in made.output, made.output
    assert _tiny_run(out, limit=8) == 8


def _tiny_run(recipe: Path, limit: int | None = None) -> int:
    """Run the data and split of a recipe with tiny settings; return the number of val images."""
    own = load_recipe(recipe)
    parts = {"train": own.data.train, "val": own.data.val}
    data = {name: {**part.model_dump(mode="json"), "limit": limit} for name, part in parts.items()}
    values = tiny_values("", "") | {"split": own.split, "data": {**data, "workers": 0}}
    metrics = run_recipe(parse_recipe(values, str(recipe)), recipe.parent / "run")["evaluate"]
    assert isinstance(metrics, EvaluateMetrics)
    return metrics.counts.images


def _line(result: Result, texts: tuple[str, ...], otherwise: str) -> str:
    """Return the line of the output that shows the verdict."""
    wanted = next((text for text in texts if text != "OK: "), otherwise)
    shown = next((line for line in result.output.splitlines() if wanted in line), "")
    plain = re.sub(r"(?<![\w.])/\S*/", "", shown).removeprefix("Error: ").replace("|", "/").strip()
    cut = plain if len(plain) <= _MOST_LETTERS else plain[:_MOST_LETTERS].rpartition(" ")[0] + " ..."
    return ("refused: " if result.exit_code else "") + cut.removesuffix(", 0 images or boxes left out")


def _counts(result: Result) -> list[str]:
    """Return the lines that say how many images and boxes there are."""
    return [line for line in result.output.splitlines() if re.match("found (train|val): ", line)]
