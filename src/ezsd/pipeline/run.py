"""The stages in order, in one folder: what is done is not done again, what was interrupted goes on.

Each stage has its own folder in the run folder. ``inputs.json`` there says what the stage was begun with, ``done.json``
that it is finished. Before anything runs, they are compared with what recipe and data are now.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from rich.console import Console

from ezsd.data.categories import CategorySplit, load_split
from ezsd.data.formats.coco import load_images
from ezsd.data.samples import ImageSet
from ezsd.errors import ArtifactError, DataError
from ezsd.evaluation.summary import summary
from ezsd.pipeline.adapt import run_adapt
from ezsd.pipeline.evaluate import run_evaluate
from ezsd.pipeline.fingerprints import Inputs, fingerprint, stage_inputs, weights_path
from ezsd.pipeline.propose import run_propose
from ezsd.pipeline.state import (
    DONE,
    INPUTS,
    check_earlier,
    is_done,
    is_redone,
    prepare_folder,
    refusal,
    stale_stages,
)
from ezsd.pipeline.train import run_train
from ezsd.pipeline.workload import describe_work
from ezsd.recipe import Part, Recipe, load_run_recipe, needs_targets
from ezsd.report.page import REPORT, is_current, write_report
from ezsd.run_folder import FOLDERS, RECIPE, STAGES, Stage
from ezsd.teacher import Teacher, load_teacher
from ezsd.utils.device import this_device
from ezsd.utils.environment import environment
from ezsd.utils.files import read_json, write_json
from ezsd.utils.lock import only_process

logger = logging.getLogger(__name__)


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
    return _run(load_run_recipe(folder / RECIPE), folder, (stage,), overwrite)


def _run(recipe: Recipe, folder: Path, wanted: Sequence[Stage], overwrite: bool) -> dict[str, Any]:
    this_device()
    recipe = _with_whole_paths(recipe)
    split = load_split(recipe.split, recipe.data.train.annotations)
    with _held(folder):
        inputs = stage_inputs(recipe, split)
        needed = [stage for stage in STAGES if stage != "propose" or needs_targets(recipe.train)]
        last = STAGES.index(wanted[-1])
        relevant = [stage for stage in needed if STAGES.index(stage) <= last]
        stale = stale_stages(folder, relevant, inputs)
        if stale and not overwrite:
            raise ArtifactError(refusal(folder, stale))
        done = {stage for stage in relevant if not is_redone(stage, stale) and is_done(folder, stage, inputs[stage])}
        check_earlier(folder, relevant, wanted, done)
        PartialState().wait_for_everyone()  # all have read before the first one writes
        if PartialState().is_main_process:
            prepare_folder(recipe, folder, stale, needed)
        PartialState().wait_for_everyone()
        todo = [stage for stage in wanted if stage not in done]
        for stage in wanted:
            if stage not in needed:
                logger.info(f"{stage}: not needed by this recipe")
            elif stage in done:
                logger.info(f"{stage}: finished before, nothing has changed")
        work = _Work(recipe, split, folder, [stage for stage in todo if stage in needed])
        if work.images:
            logger.info(describe_work(recipe, split, work.images, todo))
        return {stage: work.metrics_of(stage, stage in done, inputs[stage]) for stage in wanted if stage in needed}


def _report(folder: Path) -> None:
    if is_current(folder):
        logger.info(f"report: nothing has changed, see {folder / REPORT}")
    else:
        logger.info(f"report: wrote {write_report(folder)}")


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
        self.images = self._load_images(todo)

    def metrics_of(self, stage: Stage, done: bool, inputs: Inputs) -> dict[str, Any]:
        """Return what the stage measured; run it first unless it is done."""
        folder = self.folder / FOLDERS[stage]
        main = PartialState().is_main_process
        if done:
            metrics: dict[str, Any] = read_json(folder / "metrics.json")
            if stage == "evaluate" and main:
                Console(highlight=False).print(summary(metrics))
            return metrics
        if main:
            write_json(folder / INPUTS, inputs)
        began = time.monotonic()
        run: Mapping[Stage, Callable[[Path], dict[str, Any]]] = {
            "adapt": self._adapt, "propose": self._propose, "train": self._train, "evaluate": self._evaluate,
        }  # fmt: skip
        metrics = run[stage](folder)
        PartialState().wait_for_everyone()
        if main:
            seconds = round(metrics.get("seconds", time.monotonic() - began), 3)
            write_json(folder / DONE, {
                "fingerprint": fingerprint(inputs),
                "seconds": seconds,
                "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "environment": environment(),
            })  # fmt: skip
            logger.info(f"{stage}: finished in {seconds:.0f} s")
        return metrics

    def _adapt(self, folder: Path) -> dict[str, Any]:
        recipe = self.recipe
        teacher = load_teacher(recipe.teacher, self.device)
        return run_adapt(teacher, self.images["train"], self.images["val"], self.split, recipe.adapt, recipe.prompt,
                         recipe.seed, folder, self.device)  # fmt: skip

    def _propose(self, folder: Path) -> dict[str, Any]:
        return run_propose(self.recipe, self.split, self.images["train"], self.teacher, folder, self.device)

    def _train(self, folder: Path) -> dict[str, Any]:
        targets = self.folder / FOLDERS["propose"] if needs_targets(self.recipe.train) else None
        return run_train(self.recipe, self.split, self.images["train"], targets, self.teacher, self.norms, folder)

    def _evaluate(self, folder: Path) -> dict[str, Any]:
        teacher = self.teacher if self.recipe.evaluate.proposals else None
        return run_evaluate(self.recipe, self.images["val"], teacher, folder.parent, self.device)

    @property
    def norms(self) -> Path | None:
        path = self.folder / FOLDERS["adapt"] / "norms.safetensors"
        return path if self.recipe.adapt.enabled else None

    @cached_property
    def teacher(self) -> Teacher:
        """Adapted."""
        return load_teacher(self.recipe.teacher, self.device, self.norms)

    def _load_images(self, todo: Sequence[Stage]) -> dict[str, ImageSet]:
        """Read the parts that the stages need; the faults of both are told at once."""
        base, data = self.split.base, self.recipe.data
        parts: list[tuple[str, Part, tuple[str, ...], tuple[str, ...]]] = []
        if {"adapt", "propose", "train"} & set(todo):
            parts.append(("train", data.train, base, base))
        if {"adapt", "evaluate"} & set(todo):
            parts.append(("val", data.val, self.split.names, ()))
        images: dict[str, ImageSet] = {}
        problems: list[str] = []
        for name, part, names, required in parts:
            try:
                images[name] = load_images(part, names, data.skip_bad, required)
            except DataError as error:
                problems += error.problems
        if problems:
            raise DataError(problems)
        skipped = {name: list(part.skipped) for name, part in images.items() if part.skipped}
        if skipped and PartialState().is_main_process:
            path = self.folder / "skipped.json"
            write_json(path, skipped)
            logger.info(
                f"{sum(map(len, skipped.values()))} bad photos or boxes are left out; they are listed in {path}"
            )
        return images


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
