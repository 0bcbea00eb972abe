"""Run folders: their files, which stages run again after a change, and resuming after a kill at any moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ezsd.errors import ArtifactError, DataError, EzsdError
from ezsd.pipeline.run import run_recipe, run_stage
from ezsd.recipe import Recipe, load_recipe, parse_recipe
from ezsd.run_folder import STAGES, Stage
from ezsd.utils.files import digest, read_tensors
from ezsd.utils.lock import only_process
from tiny import TinyCoco, make_tiny_coco
from tiny_teacher import tiny_values

FOLDERS = {"adapt": "adapt", "propose": "targets", "train": "train", "evaluate": "evaluate"}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EZSD_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ACCELERATE_USE_CPU", "true")  # so that metrics are the same on every machine
        yield


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> TinyCoco:
    return make_tiny_coco(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(coco: TinyCoco, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run_recipe(_recipe(coco), folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test can change."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def _recipe(coco: TinyCoco, **changes: Any) -> Recipe:
    return parse_recipe(_values(coco, **changes), "test")


def _values(coco: TinyCoco, **changes: Any) -> Any:
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section] = {**values.get(section, {}), name: value} if name else value
    return values


def _done(folder: Path) -> dict[str, int]:
    """Return the time when each finished stage was finished."""
    paths = {stage: folder / name / "done.json" for stage, name in FOLDERS.items()}
    return {stage: path.stat().st_mtime_ns for stage, path in paths.items() if path.exists()}


def _redone(before: dict[str, int], folder: Path) -> list[str]:
    now = _done(folder)
    return [stage for stage in STAGES if now.get(stage) != before.get(stage)]


def _results(folder: Path) -> dict[str, Any]:
    """Return the results that must not depend on interruptions of the run."""
    metrics = json.loads((folder / "evaluate/metrics.json").read_text())
    metrics["cost"] = {key: value for key, value in metrics["cost"].items() if not key.endswith("_s")}
    tensors = {
        f"{name} {key}": digest(value.numpy().tobytes())
        for name in ("adapt/norms.safetensors", "train/model/model.safetensors")
        for key, value in read_tensors(folder / name)[0].items()
    }
    return {"metrics": metrics, "detections": digest(folder / "evaluate/detections.json"), **tensors}


def test_run_folder_contains_the_documented_files(finished: Path, coco: TinyCoco) -> None:
    for name in (
        "recipe.yaml", "adapt/norms.safetensors", "adapt/metrics.json", "targets/index.json", "targets/metrics.json",
        "train/model/model.safetensors", "train/model/config.json", "train/log.jsonl",
        "evaluate/metrics.json", "evaluate/detections.json", "evaluate/per_category.csv", "report.html",
    ):  # fmt: skip
        assert (finished / name).exists(), name
    assert load_recipe(finished / "recipe.yaml") == _recipe(coco)
    header = (finished / "recipe.yaml").read_text().partition("split:")[0]
    for word in ("ezsd: ", "torch: ", "python: ", "device: ", "processors: "):
        assert f"# {word}" in header
    done = json.loads((finished / "train/done.json").read_text())
    assert done["seconds"] > 0
    assert done["environment"]["torch"]


def test_evaluate_metrics_include_those_of_all_stages(finished: Path) -> None:
    metrics = json.loads((finished / "evaluate/metrics.json").read_text())
    assert None not in {**metrics["teacher"], **metrics["cost"], **metrics["proposals"], **metrics["gzsd"]}.values()


def test_saved_recipe_has_absolute_paths(coco: TinyCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(coco.images.parent)
    values: Any = tiny_values("images", "instances.json")
    run_recipe(parse_recipe(values, "test"), tmp_path / "run", until="adapt")
    assert load_recipe(tmp_path / "run/recipe.yaml").data.train.images == coco.images


@pytest.mark.usefixtures("shown_log")
def test_finished_run_is_not_repeated(folder: Path, coco: TinyCoco, capsys: pytest.CaptureFixture[str]) -> None:
    before = _done(folder)
    metrics = run_recipe(_recipe(coco, data__workers=1, train__checkpoint_steps=9), folder)
    assert _redone(before, folder) == []
    assert metrics["evaluate"].to_json() == json.loads((folder / "evaluate/metrics.json").read_text())
    shown = capsys.readouterr()
    assert shown.err.count("already finished") == 4
    assert shown.out == ""  # the command line prints the summary
    assert "report: nothing has changed" in shown.err


def test_report_is_rewritten_only_when_results_change(folder: Path, coco: TinyCoco) -> None:
    report = folder / "report.html"
    report.write_text(report.read_text() + "<!-- unchanged -->")
    run_recipe(_recipe(coco), folder)
    assert "<!-- unchanged -->" in report.read_text()
    run_recipe(_recipe(coco, train__lr=0.01), folder, until="evaluate", overwrite=True)
    assert not report.exists()
    run_recipe(_recipe(coco, train__lr=0.01), folder)
    assert "lr: 0.01" in report.read_text()


def test_another_recipe_in_the_same_folder_is_refused_without_changes(folder: Path, coco: TinyCoco) -> None:
    before, recipe = _done(folder), (folder / "recipe.yaml").read_text()
    with pytest.raises(ArtifactError) as caught:
        run_recipe(_recipe(coco, train__lr=0.5, propose__keep=3), folder)
    expected = str(caught.value)
    assert "propose.keep was 10, is now 3" in expected
    assert "train.lr was 0.001, is now 0.5" in expected
    assert "--overwrite to remove the results of propose, train, evaluate" in expected
    assert expected.count("train.lr") == 1
    assert _redone(before, folder) == []
    assert (folder / "recipe.yaml").read_text() == recipe


def test_overwrite_repeats_the_changed_stage_and_later_stages(folder: Path, coco: TinyCoco) -> None:
    before, old = _done(folder), digest(folder / "train/model/model.safetensors")
    run_recipe(_recipe(coco, train__lr=0.01), folder, overwrite=True)
    assert _redone(before, folder) == ["train", "evaluate"]
    assert digest(folder / "train/model/model.safetensors") != old
    assert load_recipe(folder / "recipe.yaml").train.lr == 0.01


def test_overwrite_removes_all_results_of_the_old_recipe(folder: Path, coco: TinyCoco) -> None:
    run_recipe(_recipe(coco, adapt__lr=0.5), folder, until="adapt", overwrite=True)
    assert _done(folder).keys() == {"adapt"}
    assert not (folder / "evaluate").exists()
    assert not (folder / "train").exists()


def test_until_stops_and_the_next_call_resumes(coco: TinyCoco, tmp_path: Path, finished: Path) -> None:
    run_recipe(_recipe(coco), tmp_path / "run", until="propose")
    assert _done(tmp_path / "run").keys() == {"adapt", "propose"}
    before = _done(tmp_path / "run")
    run_recipe(_recipe(coco), tmp_path / "run")
    assert _redone(before, tmp_path / "run") == ["train", "evaluate"]
    assert _results(tmp_path / "run") == _results(finished)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("adapt/norms.safetensors", "adapt"),
        ("targets/index.json", "propose"),
        ("targets/shard-00001.arrow", "propose"),
        ("train/model/model.safetensors", "train"),
        ("train/model/teacher_norms.safetensors", "train"),
        ("train/model/config.json", "train"),
    ],
)
@pytest.mark.parametrize("damage", ["a changed byte", "half of it", "missing"])
@pytest.mark.usefixtures("shown_log")
def test_damaged_results_are_named_and_made_again(
    folder: Path, coco: TinyCoco, finished: Path, capsys: pytest.CaptureFixture[str], name: str, stage: str, damage: str
) -> None:
    removed = ["train", "evaluate"] if stage == "propose" else ["evaluate"]
    for later in removed:
        shutil.rmtree(folder / later)
    path, before = folder / name, _done(folder)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "half of it":
        path.write_bytes(content[: len(content) // 2])
    else:
        place = content.index(b'"') + 1 if path.suffix == ".json" else len(content) * 3 // 4
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    run_recipe(_recipe(coco), folder)
    assert _redone(before, folder) == [stage, *removed]
    assert _results(folder) == _results(finished)
    shown = capsys.readouterr().err
    assert f"{stage} runs again" in shown and name in shown


@pytest.mark.parametrize(
    ("name", "stage", "text", "other"),
    [
        ("adapt/metrics.json", "adapt", '"crops": ', '"crops": 9'),
        ("train/model/config.json", "train", '"nms": 0.5', '"nms": 0.7'),
        ("evaluate/detections.json", "evaluate", '"score": 0.', '"score": 1.'),
        ("evaluate/done.json", "evaluate", '"fingerprint": ', ""),
    ],
)
def test_changed_value_in_a_result_is_found_when_its_stage_is_asked_for(
    folder: Path, finished: Path, name: str, stage: Stage, text: str, other: str
) -> None:
    path = folder / name
    content = path.read_text()
    assert text in content
    path.write_text(content.replace(text, other, 1))
    before = _done(folder)
    run_stage(folder, stage)
    assert _redone(before, folder) == [stage]
    assert other == "" or other not in path.read_text()
    assert _results(folder) == _results(finished)


def test_damaged_rpn_is_trained_again(coco: TinyCoco, tmp_path: Path) -> None:
    recipe, path = _recipe(coco, propose__scoring="regions"), tmp_path / "targets/rpn.safetensors"
    run_recipe(recipe, tmp_path, until="propose")
    before, shards = path.read_bytes(), [digest(shard) for shard in (tmp_path / "targets").glob("shard-*")]
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    run_stage(tmp_path, "propose")
    assert path.read_bytes() == before
    assert [digest(shard) for shard in (tmp_path / "targets").glob("shard-*")] == shards


def test_targets_that_were_removed_are_not_needed_by_evaluate(folder: Path, coco: TinyCoco) -> None:
    shutil.rmtree(folder / "evaluate")
    (folder / "targets/shard-00000.arrow").unlink()
    before = _done(folder)
    run_recipe(_recipe(coco), folder, until="evaluate")
    assert _redone(before, folder) == ["evaluate"]


def test_damaged_results_of_a_finished_run_are_checked_when_their_stage_is_asked_for(folder: Path) -> None:
    before = _done(folder)
    (folder / "targets/shard-00000.arrow").unlink()
    run_stage(folder, "train")
    assert _redone(before, folder) == []
    run_stage(folder, "propose")
    assert _redone(before, folder) == ["propose"]


def test_run_stage_requires_finished_earlier_stages(folder: Path) -> None:
    shutil.rmtree(folder / "evaluate")
    shutil.rmtree(folder / "train")
    before = _done(folder)
    with pytest.raises(ArtifactError, match=r"stage train is not finished\. Run: ezsd train"):
        run_stage(folder, "evaluate")
    assert "train" in run_stage(folder, "train")
    assert _redone(before, folder) == ["train"]


@pytest.mark.parametrize("name", ["train/inputs.json", "adapt/confusion.json", "train/model/thresholds.json"])
def test_json_of_another_kind_is_a_message(folder: Path, coco: TinyCoco, name: str) -> None:
    (folder / name).write_text("[1]")
    (folder / "report.html").unlink()
    with pytest.raises(ArtifactError, match=rf"{name} is not a JSON object"):
        run_recipe(_recipe(coco), folder)


def test_run_stage_rejects_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a run folder"):
        run_stage(tmp_path, "train")


@pytest.mark.parametrize("overwrite", [False, True])
def test_user_files_are_never_removed(coco: TinyCoco, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "holiday.jpg").write_text("mine")
    with pytest.raises(ArtifactError, match="contains files that were not written by a run"):
        run_recipe(_recipe(coco), tmp_path, overwrite=overwrite)
    assert os.listdir(tmp_path / "train") == ["holiday.jpg"]


def test_user_recipe_is_not_overwritten(coco: TinyCoco, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("# my notes\n")
    with pytest.raises(ArtifactError, match="was not written by a run"):
        run_recipe(_recipe(coco), tmp_path, overwrite=True)
    assert (tmp_path / "recipe.yaml").read_text() == "# my notes\n"


def test_disabled_adaptation_measures_and_uses_the_raw_teacher(coco: TinyCoco, tmp_path: Path) -> None:
    metrics = run_recipe(_recipe(coco, adapt__enabled=False), tmp_path)
    assert not (tmp_path / "adapt/norms.safetensors").exists()
    assert not (tmp_path / "train/model/teacher_norms.safetensors").exists()
    teacher = metrics["evaluate"].teacher.to_json()
    assert teacher["accuracy_base_before"] is not None
    assert teacher["accuracy_base_after"] is None


def test_recipe_without_distillation_makes_no_targets(coco: TinyCoco, tmp_path: Path) -> None:
    metrics = run_recipe(_recipe(coco, train__distillation_weight=0.0), tmp_path)
    assert not (tmp_path / "targets").exists()
    assert metrics["evaluate"].setting == "strict"
    assert metrics["evaluate"].proposals.novel_recall_at_100 is not None
    assert metrics["evaluate"].cost.teacher_crops is None


def test_targets_that_are_no_longer_needed_are_removed(folder: Path, coco: TinyCoco) -> None:
    run_recipe(_recipe(coco, train__distillation_weight=0.0), folder, overwrite=True)
    assert not (folder / "targets").exists()


def test_problems_of_both_parts_are_reported_before_any_stage_runs(tmp_path: Path) -> None:
    parts = {}
    for name in ("train", "val"):
        coco = make_tiny_coco(tmp_path / name)
        (coco.images / "000011.jpg").unlink()
        parts[name] = {"images": str(coco.images), "annotations": str(coco.annotations)}
    recipe = _recipe(coco, data=parts)
    with pytest.raises(DataError) as caught:
        run_recipe(recipe, tmp_path / "run")
    for name in ("train", "val"):
        assert str(tmp_path / name / "images" / "000011.jpg") in str(caught.value)
    assert _done(tmp_path / "run") == {}


def test_skip_bad_leaves_out_lists_and_counts_invalid_images(tmp_path: Path) -> None:
    coco = make_tiny_coco(tmp_path / "data")
    (coco.images / "000011.jpg").write_text("broken")
    recipe = _recipe(coco, data__skip_bad=True)
    metrics = run_recipe(recipe, tmp_path / "run")
    listed = json.loads((tmp_path / "run/skipped.json").read_text())
    assert "000011.jpg" in listed["train"][0]
    assert metrics["evaluate"].counts.skipped == len(listed["val"])
    assert metrics["evaluate"].counts.images == 7


def test_folder_in_use_is_refused(folder: Path, coco: TinyCoco, tmp_path: Path) -> None:
    hold = (
        "import sys\nfrom pathlib import Path\nfrom ezsd.utils.lock import only_process\n"
        "with only_process(Path(sys.argv[1])):\n    print(1, flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ArtifactError, match="in use by process"):
            run_recipe(_recipe(coco), folder)
        assert process.stdin is not None
        process.stdin.close()
    with only_process(folder):
        pass


def test_corrected_recipe_runs_in_the_folder_of_a_failed_run(coco: TinyCoco, tmp_path: Path) -> None:
    with pytest.raises(EzsdError, match="teacher"):
        run_recipe(_recipe(coco, teacher="tiny_teacher:MissingTeacher"), tmp_path)
    run_recipe(_recipe(coco), tmp_path, until="adapt")
    assert _done(tmp_path).keys() == {"adapt"}


def test_two_processes_share_one_run(finished: Path, coco: TinyCoco, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shown = _run_in_two_processes(coco, folder)
    assert shown.count("evaluate: finished") == 1
    assert "train: 4 steps of 4 images: 8 images x 2 epochs" in shown  # twice the images per step
    assert json.loads((folder / "train/done.json").read_text())["environment"]["device"] == "2 x cpu"
    assert json.loads((folder / "train/metrics.json").read_text())["steps"] == 4
    single, shared = (read_tensors(path / "adapt/norms.safetensors")[0] for path in (finished, folder))
    assert all(torch.allclose(single[name], shared[name], atol=1e-5) for name in single)
    assert json.loads((folder / "evaluate/metrics.json").read_text())["counts"]["images"] == 8


def test_two_processes_have_the_losses_of_one_with_as_many_images_per_step(coco: TinyCoco, tmp_path: Path) -> None:
    changes = {"train__epochs": 10, "train__lr": 1e-5, "detector__rois_per_image": 256}
    _run_in_two_processes(coco, tmp_path / "two", "--until", "train", **changes)
    run_recipe(_recipe(coco, train__batch_size=4, **changes), tmp_path / "one", until="train")
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "train/log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [line["step"] for line in one] == [line["step"] for line in two] == [10, 20]
    for first, second in zip(one, two, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=0.03)  # a process averages over its own boxes


_NOTE_WEIGHTS = """
import os
from pathlib import Path
import torch
from ezsd.cli import app
from ezsd.pipeline import train
from ezsd.utils.files import digest

def noted(model, *others, train_model=train.train_model):
    metrics = train_model(model, *others)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    Path(f"rank{os.environ['RANK']}").write_text(digest(weights.numpy().tobytes()))
    return metrics

train.train_model = noted
app()
"""


def test_two_processes_train_on_their_own_images_and_have_the_same_weights(
    coco: TinyCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("note_weights.py").write_text(_NOTE_WEIGHTS)
    # Each process sees other images, so without the mean of their gradients the weights differ.
    _run_in_two_processes(coco, tmp_path / "two", "--until", "train", program=("note_weights.py",), train__ema=0)
    assert Path("rank0").read_text() == Path("rank1").read_text()


def _run_in_two_processes(
    coco: TinyCoco, folder: Path, *options: str, program: Sequence[str] = ("-m", "ezsd"), **changes: Any
) -> str:
    recipe = folder.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(_values(coco, **changes)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               *program, "run", str(recipe), "--out", str(folder), *options]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_run_killed_in_every_stage_gives_the_results_of_an_uninterrupted_run(
    finished: Path, coco: TinyCoco, tmp_path: Path
) -> None:
    recipe, folder = tmp_path / "tiny.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(tiny_values(str(coco.images), str(coco.annotations))))
    signs = {
        "adapt": "adapt/inputs.json",
        "propose": "targets/shard-00001.arrow",
        "train": "train/checkpoints/step-00000[46]",
        "evaluate": "evaluate/parts/*",
    }
    for stage, sign in signs.items():
        process = _start(recipe, folder)
        _wait_for(process, folder, sign)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert stage not in _done(folder), f"stage {stage} finished before the process was killed"
    (folder / "train" / ".model.safetensors.1.part").touch()
    run_recipe(load_recipe(recipe), folder)
    assert _results(folder) == _results(finished)
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("adapt", "adapt.batch_size"),
        ("propose", "propose.batch_size, propose.dense_sides or detector.image_size"),
        ("train", "train.batch_size, and raise train.accumulate"),
        ("evaluate", "evaluate.batch_size or detector.image_size"),
    ],
)
def test_lack_of_memory_names_the_settings_of_the_stage(
    folder: Path, coco: TinyCoco, monkeypatch: pytest.MonkeyPatch, stage: Stage, settings: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    for later in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(folder / FOLDERS[later])
    monkeypatch.setattr(f"ezsd.pipeline.run.run_{stage}", full)
    with pytest.raises(ArtifactError, match=f"Memory is not sufficient .*allocate 2.00 GiB.* Lower {settings}"):
        run_recipe(_recipe(coco), folder)
    assert stage not in _done(folder)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system in memory of 96 MB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs, on Linux")
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)]
    if error := subprocess.run(command, capture_output=True, text=True, check=False).stderr:
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # shards are mapped into memory


@pytest.mark.parametrize(("stage", "free"), [("adapt", 0), ("propose", 2), ("train", 8), ("evaluate", 2)])
def test_full_disk_is_a_message_and_the_run_goes_on_when_there_is_space(
    disk: Path, coco: TinyCoco, finished: Path, tmp_path: Path, stage: Stage, free: int
) -> None:
    recipe, folder = tmp_path / "tiny.yaml", disk / "run"
    recipe.write_text(yaml.safe_dump(_values(coco)))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(finished, folder)
    (folder / "report.html").unlink()
    for later in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(folder / FOLDERS[later])
    space = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes((space.f_bavail - free) * space.f_frsize))
    process = _start(recipe, folder)
    shown = process.communicate()[1]
    (disk / "filler").unlink()
    assert process.returncode == 2, shown
    assert "No space left" in shown or "disk" in shown
    assert "Traceback" not in shown
    run_recipe(load_recipe(recipe), folder)
    assert _results(folder) == _results(finished)


@pytest.mark.parametrize("free", [0, 2])  # no space for the lock; some for recipe.yaml, but not for run.log
def test_new_run_on_a_full_disk_is_a_message(disk: Path, coco: TinyCoco, tmp_path: Path, free: int) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(_values(coco)))
    for left in disk.iterdir():
        shutil.rmtree(left)
    space = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes((space.f_bavail - free) * space.f_frsize))
    process = _start(recipe, disk / "new")
    shown = process.communicate()[1]
    (disk / "filler").unlink()
    assert process.returncode == 2, shown
    assert "Cannot write" in shown and "Traceback" not in shown


def _start(recipe: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ezsd", "run", str(recipe), "--out", str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=_environment())


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # includes the folder of tiny_teacher


def _wait_for(process: subprocess.Popen[str], folder: Path, sign: str) -> None:
    until = time.monotonic() + 400
    while not list(folder.glob(sign)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, sign
        time.sleep(0.002)
