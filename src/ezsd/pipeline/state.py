"""The state of a run folder: which stages are finished, and which were made from other inputs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ezsd.errors import ArtifactError
from ezsd.pipeline.fingerprints import Inputs, differences
from ezsd.recipe import Recipe, renamed_keys, save_recipe
from ezsd.report.page import remove_report
from ezsd.run_folder import STAGES, RunFolder, Stage
from ezsd.utils.environment import environment, versions
from ezsd.utils.files import read_json_object
from ezsd.utils.format import shell_quoted

_MARK = "run folder of"


def stale_stages(run: RunFolder, stages: Sequence[Stage], inputs: Mapping[str, Inputs]) -> dict[Stage, list[str]]:
    """Return the stages that were started with other inputs, and the differences.

    Raises:
        ArtifactError: The folder of a stage, or recipe.yaml, was not written by a run.
    """
    recipe = run.recipe
    if recipe.exists() and not recipe.read_text(encoding="utf-8", errors="replace").startswith(f"# {_MARK}"):
        raise ArtifactError(
            f"{recipe} was not written by a run and would be overwritten. Choose another folder with --out."
        )
    stale: dict[Stage, list[str]] = {}
    for stage in stages:
        if not _holds_work(run, stage):
            continue
        if not run.inputs(stage).is_file():
            raise ArtifactError(
                f"{run.of(stage)} contains files that were not written by a run. Choose another folder with --out."
            )
        if changes := differences(read_inputs(run, stage), inputs[stage]):
            stale[stage] = changes
    return stale


def _holds_work(run: RunFolder, stage: Stage) -> bool:
    """Return whether the folder of a stage contains anything else than inputs.json and temporary files."""
    folder, start = run.of(stage), run.inputs(stage)
    return folder.exists() and any(path != start and path.suffix != ".part" for path in folder.iterdir())


def refusal(run: RunFolder, stale: Mapping[Stage, Sequence[str]]) -> list[str]:
    """Return the lines of the error message for a run folder with stale stages."""
    first = STAGES.index(next(iter(stale)))
    redone = [stage for stage in STAGES[first:] if run.of(stage).exists()]
    changes = dict.fromkeys(difference for entries in stale.values() for difference in entries)
    return [
        f"{run.path} was made from another recipe or other data:",
        *changes,
        f"Choose another folder with --out, or use --overwrite to remove the results of {', '.join(redone)} and run "
        "these stages again.",
    ]


def is_redone(stage: Stage, stale: Mapping[Stage, Sequence[str]]) -> bool:
    """Return whether a stage is the first stale one or comes after it."""
    return bool(stale) and STAGES.index(stage) >= STAGES.index(next(iter(stale)))


def is_done(run: RunFolder, stage: Stage, inputs: Inputs) -> bool:
    """Return whether a stage is finished and was run with these inputs."""
    return run.done(stage).is_file() and run.inputs(stage).is_file() and read_inputs(run, stage) == inputs


def read_inputs(run: RunFolder, stage: Stage) -> Inputs:
    """Read the inputs that a stage was started with. Renamed recipe keys are returned with their new names."""
    return renamed_keys(read_json_object(run.inputs(stage)))


def check_earlier(run: RunFolder, relevant: Sequence[Stage], wanted: Sequence[Stage], done: set[Stage]) -> None:
    """Raise ArtifactError if a stage before the wanted ones is not finished."""
    for stage in relevant:
        if stage not in wanted and stage not in done:
            raise ArtifactError(
                f"{run.path}: stage {stage} is not finished. Run: ezsd {stage} {shell_quoted(run.path)}"
            )


def prepare_folder(
    recipe: Recipe, run: RunFolder, stale: Mapping[Stage, Sequence[str]], needed: Sequence[Stage]
) -> None:
    """Remove stale results and the temporary files of killed runs; write the resolved recipe."""
    for path in list(run.path.rglob(".*.part")):
        if path.exists():  # an earlier iteration can remove the folder that contains it
            _remove(path)
    if stale:
        remove_report(run)
    for stage in STAGES if stale else ():
        if (is_redone(stage, stale) or stage not in needed) and run.inputs(stage).exists():
            _remove(run.of(stage))
    save_recipe(recipe, run.recipe, {_MARK: f"ezsd {versions()['ezsd']}", **environment()})


def reopen(run: RunFolder, stage: Stage, damaged: Iterable[Path]) -> None:
    """Remove damaged files of a stage, so that it runs again; files that are whole are kept."""
    for path in (run.done(stage), *damaged):  # first the mark: a killed run must not find the stage finished
        if path.exists():
            _remove(path)


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            # Rename first, so that a partly removed folder is not taken for a stage.
            renamed = path.with_name(f".{path.name.strip('.')}.removed.part")
            path.rename(renamed)
            shutil.rmtree(renamed)
        else:
            path.unlink()
    except OSError as error:
        raise ArtifactError(f"Cannot remove {path}: {error}. Remove it, then run the same command again.") from None
