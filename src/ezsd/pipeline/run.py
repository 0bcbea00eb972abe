"""Run the stages of a recipe in one folder. Finished stages are skipped; interrupted stages resume.

Each stage has its own folder in the run folder. ``inputs.json`` holds the inputs that the stage was started with, and
``done.json`` marks it as finished. Before any stage runs, the stored inputs are compared with the current recipe and
data.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Literal

from ezsd.data.categories import load_split
from ezsd.data.formats.coco import describe_part, load_parts
from ezsd.data.samples import ImageSet
from ezsd.detector.initial_weights import check_detector, start_folder
from ezsd.errors import ArtifactError
from ezsd.pipeline.adapt import run_adapt
from ezsd.pipeline.context import RunContext
from ezsd.pipeline.evaluate import run_evaluate
from ezsd.pipeline.fingerprints import Inputs, absolute_teacher, fingerprint, stage_inputs
from ezsd.pipeline.integrity import CHECKSUMS, READS, checksums, damaged_results
from ezsd.pipeline.propose import run_propose
from ezsd.pipeline.state import check_earlier, is_done, is_redone, prepare_folder, refusal, reopen, stale_stages
from ezsd.pipeline.train import run_train
from ezsd.pipeline.workload import describe_work
from ezsd.recipe import Recipe, load_run_recipe, needs_targets, reads_densely
from ezsd.report.page import is_current, write_report
from ezsd.run_folder import STAGES, RunFolder, Stage
from ezsd.run_metrics import METRICS, Metrics, read_metrics
from ezsd.teacher import Teacher, check_dense, check_teacher, load_teacher
from ezsd.teacher.base import with_dense_reading
from ezsd.utils.device import check_trackers, process_state, this_device
from ezsd.utils.environment import environment
from ezsd.utils.files import write_json
from ezsd.utils.format import counted, duration
from ezsd.utils.lock import only_process
from ezsd.utils.log import collected_warnings, log_to_file
from ezsd.utils.memory import memory_errors
from ezsd.utils.ray_engine import RayEngine
from ezsd.utils.workers import end_if_worker_imports_script

logger = logging.getLogger(__name__)

_MEMORY: dict[Stage, str] = {
    "adapt": "Lower adapt.batch_size.",
    "propose": "Lower propose.batch_size, propose.dense_sides or detector.image_size.",
    "train": "Lower train.batch_size, and raise train.accumulate, which keeps the number of images in a step; or lower "
    "train.proposals_per_image or detector.image_size.",
    "evaluate": "Lower evaluate.batch_size or detector.image_size.",
}


def run_recipe(
    recipe: Recipe,
    folder: Path,
    until: Stage | Literal["report"] = "report",
    overwrite: bool = False,
    engine: RayEngine | None = None,
) -> dict[Stage, Metrics]:
    """Run the stages of a recipe in ``folder``, up to ``until``. Calling it again resumes.

    After the last stage, ``report.html`` is written unless it is up to date.

    Args:
        recipe: The recipe. Relative paths are resolved against the working directory.
        folder: The run folder. It is created if it does not exist.
        until: The last stage to run.
        overwrite: If the folder was made from another recipe or other data, remove the first stage that differs and
            all stages after it, and run them again.
        engine: Where the images of propose and evaluate are shared out; None = in this process, or in those of
            torchrun. Results are the same.

    Returns:
        The metrics of each stage that ran or was already finished.

    Raises:
        RecipeError: The recipe or its split is invalid.
        DataError: Images or annotations are invalid.
        ArtifactError: The folder was made from another recipe, is in use, or cannot be written.
        MissingExtraError: A tracker named in the recipe, or Ray, is not installed.
    """
    end_if_worker_imports_script()
    stages = STAGES if until == "report" else STAGES[: STAGES.index(until) + 1]
    run = RunFolder(folder)
    metrics = _run(recipe, run, stages, overwrite, engine)
    if until == "report" and process_state().is_main_process:
        with log_to_file(run.log):
            if is_current(run):
                logger.info(f"report: nothing has changed, see {run.report}")
            else:
                logger.info(f"report: wrote {write_report(folder)}")
    return metrics


def run_stage(
    folder: Path, stage: Stage, overwrite: bool = False, engine: RayEngine | None = None
) -> dict[Stage, Metrics]:
    """Run one stage of a run folder with the folder's recipe.yaml. The stages before it must be finished.

    Returns:
        The metrics of the stage, by stage.

    Raises:
        ArtifactError: ``folder`` is not a run folder, or an earlier stage is not finished; see :func:`run_recipe`.
    """
    run = RunFolder(folder)
    run.check()
    return _run(load_run_recipe(run.recipe), run, (stage,), overwrite, engine)


def _run(
    recipe: Recipe, run: RunFolder, wanted: Sequence[Stage], overwrite: bool, engine: RayEngine | None
) -> dict[Stage, Metrics]:
    if engine is not None:
        engine.check()
    check_trackers(recipe.train.trackers)
    check_detector(recipe.detector)
    context = _context(recipe, run, engine)
    with _held(run):
        inputs = stage_inputs(context.recipe, context.split)
        needed = [stage for stage in STAGES if stage != "propose" or needs_targets(recipe.train)]
        relevant = [stage for stage in needed if STAGES.index(stage) <= STAGES.index(wanted[-1])]
        stale = stale_stages(run, relevant, inputs)
        if stale and not overwrite:
            raise ArtifactError(refusal(run, stale))
        done = {stage for stage in relevant if not is_redone(stage, stale) and is_done(run, stage, inputs[stage])}
        damaged = _damaged(context, done, [stage for stage in wanted if stage in needed])
        done -= damaged.keys()
        check_earlier(run, relevant, wanted, done)
        todo = [stage for stage in wanted if stage in needed and stage not in done]
        if todo:
            check_teacher(context.recipe)  # before anything is removed, loaded or computed
        process_state().wait_for_everyone()  # all processes must have read the folder before the main one writes
        if process_state().is_main_process:
            prepare_folder(context.recipe, run, stale, needed)
            for stage, files in damaged.items():
                reopen(run, stage, files)
        process_state().wait_for_everyone()
        for stage in wanted:
            if stage not in needed:
                logger.info(f"{stage}: not needed by this recipe")
            elif stage in done:
                logger.info(f"{stage}: already finished, nothing has changed")
        stages = _Stages(context, todo)
        if stages.images:
            logger.info(describe_work(context.recipe, context.split, stages.images, todo))
        return {
            stage: stages.run(stage, inputs[stage]) if stage in todo else _read(run, stage)
            for stage in wanted
            if stage in needed
        }


def _damaged(context: RunContext, done: set[Stage], wanted: Sequence[Stage]) -> dict[Stage, Collection[Path]]:
    """Return the finished stages with damaged files, and name the files in the log.

    Checked are the stages whose results will be read, and a stage that was asked for alone.
    """
    todo = [stage for stage in wanted if stage not in done]
    checked = {read for stage in todo for read in READS[stage]} | (set(wanted) if len(wanted) == 1 else set())
    found: dict[Stage, Collection[Path]] = {}
    for stage in STAGES:
        if stage in checked & done and (files := damaged_results(context, stage)):
            found[stage] = files
            logger.warning(f"{stage} runs again: missing or damaged: {', '.join(map(str, files))}")
    return found


def _context(recipe: Recipe, run: RunFolder, engine: RayEngine | None) -> RunContext:
    recipe = _with_absolute_paths(recipe)
    split = load_split(recipe.split, recipe.data.train.annotations)
    return RunContext(recipe, split, run, this_device(), engine)


def _read(run: RunFolder, stage: Stage) -> Metrics:
    return read_metrics(run.metrics(stage), METRICS[stage])


class _Stages:
    """Run stages. Images and the adapted teacher are loaded once and shared.

    Args:
        context: The run.
        todo: The stages that will run. Their images are loaded and checked before the first stage runs.
    """

    def __init__(self, context: RunContext, todo: Sequence[Stage]) -> None:
        self.context = context
        self.images = _load_images(context, todo)

    def run(self, stage: Stage, inputs: Inputs) -> Metrics:
        """Run a stage and mark it as finished; return its metrics."""
        folder, main = self.context.folder, process_state().is_main_process
        if main:
            write_json(folder.inputs(stage), inputs)
        started = time.monotonic()
        with collected_warnings(f"Warnings of stage {stage}"), memory_errors(_MEMORY[stage]):
            metrics = self._metrics(stage)
        process_state().wait_for_everyone()
        if main:
            seconds = round(getattr(metrics, "seconds", None) or time.monotonic() - started, 3)
            write_json(folder.done(stage), {
                "fingerprint": fingerprint(inputs),
                "seconds": seconds,
                "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "environment": environment(),
                CHECKSUMS: checksums(folder, stage),
            })  # fmt: skip
            logger.info(f"{stage}: finished in {duration(seconds)}")
        return metrics

    def _metrics(self, stage: Stage) -> Metrics:
        context, images = self.context, self.images
        if stage == "adapt":
            raw = load_teacher(context.recipe.teacher, context.device)
            if context.recipe.propose.dense_reading != "auto":
                with_dense_reading(raw, context.recipe.propose.dense_reading)  # before hours of work, if it is missing
            if reads_densely(context.recipe):
                check_dense(raw)  # now, not after the adaptation
            return run_adapt(context, raw, images["train"], images["val"])
        if stage == "propose":
            return run_propose(context, images["train"], self.teacher)
        if stage == "train":
            return run_train(context, images["train"], self.teacher, val=images.get("val"))
        return run_evaluate(context, images["val"], self.teacher if context.recipe.evaluate.proposals else None)

    @cached_property
    def teacher(self) -> Teacher:
        """The adapted teacher."""
        return load_teacher(self.context.recipe.teacher, self.context.device, self.context.norms)


def _load_images(context: RunContext, todo: Sequence[Stage]) -> dict[str, ImageSet]:
    """Load the parts that the stages need, and list the invalid images and boxes that are left out."""
    parts: list[Literal["train", "val"]] = []
    if {"adapt", "propose", "train"} & set(todo):
        parts.append("train")
    if {"adapt", "evaluate"} & set(todo) or ("train" in todo and context.recipe.train.validate_steps):
        parts.append("val")
    images = load_parts(context.recipe.data, context.split, parts)
    for name, loaded in images.items():
        for note in loaded.notes:
            logger.info(f"{name}: {note}")
        logger.info(describe_part(name, loaded))
    skipped = {name: list(part.skipped) for name, part in images.items() if part.skipped}
    if skipped and process_state().is_main_process:
        write_json(context.folder.skipped, skipped)
        logger.warning(
            f"{counted(sum(map(len, skipped.values())), 'invalid image or box is', 'invalid images or boxes are')} "
            f"left out; see {context.folder.skipped}"
        )
    return images


@contextmanager
def _held(run: RunFolder) -> Iterator[None]:
    """Lock the run folder and write its log. With several processes, only the main process does so."""
    if not process_state().is_main_process:
        yield
        return
    with only_process(run.path), log_to_file(run.log):
        yield


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """Make paths absolute, so that the recipe in the run folder works from any working directory."""
    data = {
        name: part.model_copy(update={"images": part.images.absolute(), "annotations": part.annotations.absolute()})
        for name, part in (("train", recipe.data.train), ("val", recipe.data.val))
    }
    start = start_folder(recipe.detector)
    detector = recipe.detector.model_copy(update={"start_from": str(start.absolute())} if start else {})
    changes = {
        "data": recipe.data.model_copy(update=data),
        "teacher": absolute_teacher(recipe.teacher),
        "detector": detector,
    }
    return recipe.model_copy(update=changes)
