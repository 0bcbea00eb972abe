"""The stages in order, in one folder: what is done is not done again, what was interrupted goes on.

Each stage has its own folder in the run folder. ``inputs.json`` there says what the stage was begun with, ``done.json``
that it is finished. Before anything runs, they are compared with what recipe and data are now.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate import PartialState
from rich.console import Console

from ezsd.adapt import run_adapt
from ezsd.data.categories import CategorySplit, load_split
from ezsd.data.coco import Photos, load_photos
from ezsd.detector.model_folder import versions
from ezsd.errors import ArtifactError, DataError
from ezsd.evaluate import run_evaluate, summary
from ezsd.files import read_json, write_json
from ezsd.fingerprints import Inputs, differences, fingerprint, stage_inputs, weights_path
from ezsd.lock import only_process
from ezsd.measure import this_device
from ezsd.plan import foretell
from ezsd.progress import say
from ezsd.propose import run_propose
from ezsd.recipe import Part, Recipe, load_recipe, save_recipe
from ezsd.report import REPORT, is_current, remove_report, write_report
from ezsd.teacher import Teacher, load_teacher
from ezsd.train import run_train
from ezsd.train_data import needs_targets

Stage = Literal["adapt", "propose", "train", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)
RECIPE = "recipe.yaml"
_FOLDERS: dict[Stage, str] = {"adapt": "adapt", "propose": "targets", "train": "train", "evaluate": "evaluate"}
_INPUTS, _DONE = "inputs.json", "done.json"
_MARK = "run folder of"


def run_recipe(
    recipe: Recipe, folder: Path, until: Stage | Literal["report"] = "report", overwrite: bool = False
) -> dict[str, Any]:
    """Run the stages of a recipe in ``folder``, up to ``until``; called again, it goes on where it was.

    After the last stage it writes ``report.html``, unless the report of these very results is there.

    Args:
        recipe: what to do; relative paths in it start at the working directory.
        folder: made when missing.
        until: the last stage to run.
        overwrite: when the folder was made from another recipe or other data, remove the stages that would be
            different, and all after them, and do them again.

    Returns:
        the metrics of each stage that ran or was there, by stage.

    Raises:
        RecipeError: the recipe or its split cannot be used.
        DataError: photos or annotations cannot be used.
        ArtifactError: the folder was made from another recipe, is in use, or cannot be written.
    """
    stages = STAGES if until == "report" else STAGES[: STAGES.index(until) + 1]
    metrics = _run(recipe, folder, stages, overwrite)
    if until == "report" and PartialState().is_main_process:
        _report(folder)
    return metrics


def run_stage(folder: Path, stage: Stage, overwrite: bool = False) -> dict[str, Any]:
    """Run one stage of a run folder, as its recipe.yaml says; the stages before it must be finished.

    Returns:
        the metrics of the stage, by stage.

    Raises:
        ArtifactError: there is no run in ``folder``, or an earlier stage is not finished; and as :func:`run_recipe`.
    """
    if not (folder / RECIPE).is_file():
        raise ArtifactError(f"{folder} is no run folder: it has no {RECIPE}. Make one with: ezsd run RECIPE --out DIR")
    return _run(load_recipe(folder / RECIPE), folder, (stage,), overwrite)


def _run(recipe: Recipe, folder: Path, wanted: Sequence[Stage], overwrite: bool) -> dict[str, Any]:
    this_device()
    recipe = _with_whole_paths(recipe)
    split = load_split(recipe.split, recipe.data.train.annotations)
    with _held(folder):
        inputs = stage_inputs(recipe, split)
        needed = [stage for stage in STAGES if stage != "propose" or needs_targets(recipe.train)]
        last = STAGES.index(wanted[-1])
        relevant = [stage for stage in needed if STAGES.index(stage) <= last]
        stale = _stale(folder, relevant, inputs)
        if stale and not overwrite:
            raise ArtifactError(_refusal(folder, stale))
        done = {stage for stage in relevant if not _redone(stage, stale) and _is_done(folder, stage, inputs[stage])}
        _check_earlier(folder, relevant, wanted, done)
        PartialState().wait_for_everyone()  # all have read before the first one writes
        if PartialState().is_main_process:
            _prepare(recipe, folder, stale, needed)
        PartialState().wait_for_everyone()
        todo = [stage for stage in wanted if stage not in done]
        for stage in wanted:
            if stage not in needed:
                say(f"{stage}: not needed by this recipe")
            elif stage in done:
                say(f"{stage}: finished before, nothing has changed")
        work = _Work(recipe, split, folder, [stage for stage in todo if stage in needed])
        if work.photos:
            say(foretell(recipe, split, work.photos, todo))
        return {stage: work.metrics_of(stage, stage in done, inputs[stage]) for stage in wanted if stage in needed}


def _report(folder: Path) -> None:
    if is_current(folder):
        say(f"report: nothing has changed, see {folder / REPORT}")
    else:
        say(f"report: wrote {write_report(folder)}")


class _Work:
    """The stages, with what several of them need read once.

    Args:
        recipe: with whole paths.
        split: of the recipe.
        folder: of the run.
        todo: the stages that will run; what they need is read, and faults told, before the first one.
    """

    def __init__(self, recipe: Recipe, split: CategorySplit, folder: Path, todo: Sequence[Stage]) -> None:
        self.recipe, self.split, self.folder = recipe, split, folder
        self.device = str(PartialState().device)
        self.photos = self._load_photos(todo)

    def metrics_of(self, stage: Stage, done: bool, inputs: Inputs) -> dict[str, Any]:
        """Return what the stage measured; run it first unless it is done."""
        folder = self.folder / _FOLDERS[stage]
        main = PartialState().is_main_process
        if done:
            metrics: dict[str, Any] = read_json(folder / "metrics.json")
            if stage == "evaluate" and main:
                Console(highlight=False).print(summary(metrics))
            return metrics
        if main:
            write_json(folder / _INPUTS, inputs)
        began = time.monotonic()
        run: Mapping[Stage, Callable[[Path], dict[str, Any]]] = {
            "adapt": self._adapt, "propose": self._propose, "train": self._train, "evaluate": self._evaluate,
        }  # fmt: skip
        metrics = run[stage](folder)
        PartialState().wait_for_everyone()
        if main:
            seconds = round(metrics.get("seconds", time.monotonic() - began), 3)
            write_json(folder / _DONE, {
                "fingerprint": fingerprint(inputs),
                "seconds": seconds,
                "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "environment": environment(),
            })  # fmt: skip
            say(f"{stage}: finished in {seconds:.0f} s")
        return metrics

    def _adapt(self, folder: Path) -> dict[str, Any]:
        recipe = self.recipe
        teacher = load_teacher(recipe.teacher, self.device)
        return run_adapt(teacher, self.photos["train"], self.photos["val"], self.split, recipe.adapt, recipe.prompt,
                         recipe.seed, folder, self.device)  # fmt: skip

    def _propose(self, folder: Path) -> dict[str, Any]:
        return run_propose(self.recipe, self.split, self.photos["train"], self.teacher, folder, self.device)

    def _train(self, folder: Path) -> dict[str, Any]:
        targets = self.folder / _FOLDERS["propose"] if needs_targets(self.recipe.train) else None
        return run_train(self.recipe, self.split, self.photos["train"], targets, self.teacher, self.norms, folder)

    def _evaluate(self, folder: Path) -> dict[str, Any]:
        teacher = self.teacher if self.recipe.evaluate.proposals else None
        return run_evaluate(self.recipe, self.photos["val"], teacher, folder.parent, self.device)

    @property
    def norms(self) -> Path | None:
        path = self.folder / _FOLDERS["adapt"] / "norms.safetensors"
        return path if self.recipe.adapt.enabled else None

    @cached_property
    def teacher(self) -> Teacher:
        """Adapted."""
        return load_teacher(self.recipe.teacher, self.device, self.norms)

    def _load_photos(self, todo: Sequence[Stage]) -> dict[str, Photos]:
        """Read the parts that the stages need; the faults of both are told at once."""
        base, data = self.split.base, self.recipe.data
        parts: list[tuple[str, Part, tuple[str, ...], tuple[str, ...]]] = []
        if {"adapt", "propose", "train"} & set(todo):
            parts.append(("train", data.train, base, base))
        if {"adapt", "evaluate"} & set(todo):
            parts.append(("val", data.val, self.split.names, ()))
        photos: dict[str, Photos] = {}
        faults: list[str] = []
        for name, part, names, required in parts:
            try:
                photos[name] = load_photos(part, names, data.skip_bad, required)
            except DataError as error:
                faults += error.faults
        if faults:
            raise DataError(faults)
        skipped = {name: list(part.skipped) for name, part in photos.items() if part.skipped}
        if skipped and PartialState().is_main_process:
            path = self.folder / "skipped.json"
            write_json(path, skipped)
            say(f"{sum(map(len, skipped.values()))} bad photos or boxes are left out; they are listed in {path}")
        return photos


def environment() -> dict[str, str]:
    """Return the versions and the hardware that decide figures and times."""
    device = PartialState().device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        **versions(),
        "platform": platform.platform(),
        "device": f"{PartialState().num_processes} x {name}",
        "processors": str(os.cpu_count()),
    }


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the run folder; with several processes, the first one holds it for all."""
    if not PartialState().is_main_process:
        yield
        return
    with only_process(folder):
        yield


def _with_whole_paths(recipe: Recipe) -> Recipe:
    """Make paths absolute, so that the recipe in the run folder holds wherever it is used."""
    data = {
        name: part.model_copy(update={"images": part.images.absolute(), "annotations": part.annotations.absolute()})
        for name, part in (("train", recipe.data.train), ("val", recipe.data.val))
    }
    teacher, weights = recipe.teacher, weights_path(recipe.teacher)
    if weights is not None:
        teacher = f"{teacher.partition('/')[0]}/{weights.absolute()}"
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=data), "teacher": teacher})


def _stale(folder: Path, stages: Sequence[Stage], inputs: Mapping[str, Inputs]) -> dict[Stage, list[str]]:
    """Tell for each stage that was begun with other inputs what differs.

    Raises:
        ArtifactError: a stage's folder, or recipe.yaml, is not ezsd's own.
    """
    own = folder / RECIPE
    if own.exists() and not own.read_text(encoding="utf-8", errors="replace").startswith(f"# {_MARK}"):
        raise ArtifactError(f"{own} was not written by a run and would be replaced. Give another folder with --out.")
    stale: dict[Stage, list[str]] = {}
    for stage in stages:
        place = folder / _FOLDERS[stage]
        if not _holds_work(place):
            continue
        if (place / _INPUTS).is_file():
            if told := differences(read_json(place / _INPUTS), inputs[stage]):
                stale[stage] = told
        else:
            raise ArtifactError(f"{place} holds files that no run wrote. Give another folder with --out.")
    return stale


def _holds_work(place: Path) -> bool:
    """Tell whether a stage has left anything in its folder but the note that it was begun."""
    return place.exists() and any(path.name != _INPUTS and path.suffix != ".part" for path in place.iterdir())


def _refusal(folder: Path, stale: Mapping[Stage, Sequence[str]]) -> list[str]:
    first = STAGES.index(next(iter(stale)))
    again = [stage for stage in STAGES[first:] if (folder / _FOLDERS[stage]).exists()]
    told = dict.fromkeys(difference for entries in stale.values() for difference in entries)
    return [
        f"{folder} was made from another recipe or other data:",
        *told,
        f"Give another folder with --out, or --overwrite to remove the results of {', '.join(again)} and redo them.",
    ]


def _redone(stage: Stage, stale: Mapping[Stage, Sequence[str]]) -> bool:
    return bool(stale) and STAGES.index(stage) >= STAGES.index(next(iter(stale)))


def _is_done(folder: Path, stage: Stage, inputs: Inputs) -> bool:
    path = folder / _FOLDERS[stage] / _DONE
    return path.is_file() and read_json(path)["fingerprint"] == fingerprint(inputs)


def _check_earlier(folder: Path, relevant: Sequence[Stage], wanted: Sequence[Stage], done: set[Stage]) -> None:
    for stage in relevant:
        if stage not in wanted and stage not in done:
            raise ArtifactError(f"{folder}: stage {stage} is not finished. Run: ezsd {stage} {folder}")


def _prepare(recipe: Recipe, folder: Path, stale: Mapping[Stage, Sequence[str]], needed: Sequence[Stage]) -> None:
    """Remove what is to be done again and what killed runs left half written, and write the resolved recipe."""
    for path in list(folder.rglob(".*.part")):
        if path.exists():  # not inside one that is gone by now
            _remove(path)
    if stale:
        remove_report(folder)
    for stage in STAGES if stale else ():
        place = folder / _FOLDERS[stage]
        if (_redone(stage, stale) or stage not in needed) and (place / _INPUTS).exists():
            _remove(place)
    save_recipe(recipe, folder / RECIPE, {_MARK: f"ezsd {versions()['ezsd']}", **environment()})


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            beside = path.with_name(f".{path.name.strip('.')}.removed.part")  # half a folder must not look like one
            path.rename(beside)
            shutil.rmtree(beside)
        else:
            path.unlink()
    except OSError as error:
        raise ArtifactError(f"Cannot remove {path}: {error}. Remove it, then run the same command again.") from None
