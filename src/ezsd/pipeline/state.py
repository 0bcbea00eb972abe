"""The state of a run folder: which stages are finished, which are out of date."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ezsd.errors import ArtifactError
from ezsd.pipeline.fingerprints import Inputs, differences
from ezsd.recipe import Recipe, renamed_keys, save_recipe
from ezsd.report.page import remove_report
from ezsd.run_folder import FOLDERS, RECIPE, STAGES, Stage
from ezsd.utils.environment import environment, versions
from ezsd.utils.files import read_json

INPUTS, DONE = "inputs.json", "done.json"
_MARK = "run folder of"


def stale_stages(folder: Path, stages: Sequence[Stage], inputs: Mapping[str, Inputs]) -> dict[Stage, list[str]]:
    """Tell for each stage that was begun with other inputs what differs.

    Raises:
        ArtifactError: a stage's folder, or recipe.yaml, is not ezsd's own.
    """
    own = folder / RECIPE
    if own.exists() and not own.read_text(encoding="utf-8", errors="replace").startswith(f"# {_MARK}"):
        raise ArtifactError(f"{own} was not written by a run and would be replaced. Give another folder with --out.")
    stale: dict[Stage, list[str]] = {}
    for stage in stages:
        place = folder / FOLDERS[stage]
        if not _holds_work(place):
            continue
        if (place / INPUTS).is_file():
            if messages := differences(read_inputs(place), inputs[stage]):
                stale[stage] = messages
        else:
            raise ArtifactError(f"{place} holds files that no run wrote. Give another folder with --out.")
    return stale


def _holds_work(place: Path) -> bool:
    """Tell whether a stage has left anything in its folder but the note that it was begun."""
    return place.exists() and any(path.name != INPUTS and path.suffix != ".part" for path in place.iterdir())


def refusal(folder: Path, stale: Mapping[Stage, Sequence[str]]) -> list[str]:
    """Say why a run folder is refused, and what can be done."""
    first = STAGES.index(next(iter(stale)))
    again = [stage for stage in STAGES[first:] if (folder / FOLDERS[stage]).exists()]
    messages = dict.fromkeys(difference for entries in stale.values() for difference in entries)
    return [
        f"{folder} was made from another recipe or other data:",
        *messages,
        f"Give another folder with --out, or --overwrite to remove the results of {', '.join(again)} and redo them.",
    ]


def is_redone(stage: Stage, stale: Mapping[Stage, Sequence[str]]) -> bool:
    """Return whether a stage comes after (or is) the first stale one."""
    return bool(stale) and STAGES.index(stage) >= STAGES.index(next(iter(stale)))


def is_done(folder: Path, stage: Stage, inputs: Inputs) -> bool:
    """Return whether a stage is finished with these inputs."""
    place = folder / FOLDERS[stage]
    return (place / DONE).is_file() and (place / INPUTS).is_file() and read_inputs(place) == inputs


def read_inputs(place: Path) -> Inputs:
    """Read what a stage was started with; recipe keys that were renamed since then have their new names."""
    return renamed_keys(read_json(place / INPUTS))


def check_earlier(folder: Path, relevant: Sequence[Stage], wanted: Sequence[Stage], done: set[Stage]) -> None:
    """Raise ArtifactError unless the stages before the wanted ones are finished."""
    for stage in relevant:
        if stage not in wanted and stage not in done:
            raise ArtifactError(f"{folder}: stage {stage} is not finished. Run: ezsd {stage} {folder}")


def prepare_folder(recipe: Recipe, folder: Path, stale: Mapping[Stage, Sequence[str]], needed: Sequence[Stage]) -> None:
    """Remove what is to be done again and what killed runs left half written, and write the resolved recipe."""
    for path in list(folder.rglob(".*.part")):
        if path.exists():  # not inside one that is gone by now
            _remove(path)
    if stale:
        remove_report(folder)
    for stage in STAGES if stale else ():
        place = folder / FOLDERS[stage]
        if (is_redone(stage, stale) or stage not in needed) and (place / INPUTS).exists():
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
