"""Find damaged results of finished stages by their checksums, before a later stage reads them.

Weights, shards and their index contain their checksums; those of the other results are in ``done.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ezsd.data.target_store import TargetStore
from ezsd.detector.model_config import ModelConfig
from ezsd.detector.model_folder import CONFIG, MODEL, NORMS, read_config
from ezsd.errors import ArtifactError
from ezsd.pipeline.context import RunContext
from ezsd.run_folder import RunFolder, Stage
from ezsd.utils.files import digest, read_json_if_exists, read_tensors

# Evaluate also reads the RPN of propose, but not its shards, which a user may have removed to save space. (The report
# draws their boxes.)
READS: dict[Stage, tuple[Stage, ...]] = {
    "adapt": (),
    "propose": ("adapt",),
    "train": ("adapt", "propose"),
    "evaluate": ("adapt", "train"),
}


CHECKSUMS = "sha256"  # the key in done.json


def checksums(run: RunFolder, stage: Stage) -> dict[str, str]:
    """Return the checksums of the results of a stage that do not contain one, by file name."""
    return {path.name: digest(path) for path in _plain_results(run, stage) if path.is_file()}


def damaged_results(context: RunContext, stage: Stage) -> list[Path]:
    """Return the results of a finished stage that are missing or damaged."""
    return _damaged_weights(context, stage) + _changed(context.folder, stage)


def _plain_results(run: RunFolder, stage: Stage) -> list[Path]:
    if stage == "adapt":
        return [run.metrics(stage), run.confusion]
    if stage == "train":
        return [run.metrics(stage), run.model / CONFIG]
    if stage == "evaluate":
        detections = [run.detections, run.detections_zsd]
        return [run.metrics(stage), run.per_category, run.detector_confusion, *detections]
    return [run.metrics(stage)]


def _changed(run: RunFolder, stage: Stage) -> list[Path]:
    """Return results that are not as their stage wrote them; earlier versions wrote no checksums."""
    try:
        written = read_json_if_exists(run.done(stage)).get(CHECKSUMS, {})
    except ArtifactError:
        return [run.done(stage)]
    now = checksums(run, stage)
    return [path for path in _plain_results(run, stage) if written.get(path.name) not in (None, now.get(path.name))]


def _damaged_weights(context: RunContext, stage: Stage) -> list[Path]:
    folder, recipe = context.folder, context.recipe
    if stage == "adapt":
        return _damaged([folder.norms] if recipe.adapt.enabled else [], read_tensors)
    if stage == "propose":
        rpn = [folder.targets.rpn] if recipe.propose.asks_rpn else []
        return _damaged(rpn, read_tensors) + _damaged_targets(folder)
    if stage == "train":
        weights = [MODEL, NORMS] if recipe.adapt.enabled else [MODEL]
        damaged = _damaged([folder.model / name for name in weights], read_tensors)
        return damaged + _damaged([folder.model / CONFIG], _read_config)
    return []


def _damaged(paths: Iterable[Path], read: Callable[[Path], object]) -> list[Path]:
    return [path for path in paths if not _is_readable(path, read)]


def _is_readable(path: Path, read: Callable[[Path], object]) -> bool:
    try:
        read(path)
    except ArtifactError:
        return False
    return True


def _read_config(path: Path) -> ModelConfig:
    return read_config(path.parent)


def _damaged_targets(folder: RunFolder) -> list[Path]:
    try:
        return TargetStore(folder.of("propose")).damaged()
    except ArtifactError:
        return [folder.targets.index]
