"""Ablation: disable ideas and additions one at a time and together; print one table, mean and deviation over seeds.

The variants are the recipe (ezsd), each of the three published ideas disabled alone, each addition of this package
disabled alone if the recipe uses it, and the presets: no addition (paper), none of the three ideas (baseline).

    python benchmarks/ablation.py pocket --out runs/ablation --seeds 3

Every run is a run folder in OUT: interrupted runs resume, and `ezsd report` and `ezsd compare` can read them. Stages
that two variants of a seed have in common (adapted teacher, targets) are computed once.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from ezsd.data.categories import load_split
from ezsd.pipeline.fingerprints import Inputs, stage_inputs
from ezsd.pipeline.run import run_recipe
from ezsd.recipe import Recipe, load_recipe
from ezsd.report.compare import compare
from ezsd.run_folder import RunFolder, Stage
from ezsd.utils.log import show_log

logger = logging.getLogger(__name__)

# The first change of a variant is its switch; the others follow from it.
IDEAS: dict[str, tuple[str, ...]] = {
    "no-adaptation": ("adapt.enabled=false",),
    "rpn-regions": (
        "propose.scoring=rpn", "propose.base_overlap=1", "propose.weighting=best_name",
        "train.ignore_top=0", "train.pseudo_boxes=0", "train.novel_negatives=false",
    ),
    "no-semantic-regression": ("detector.semantic_regression=false",),
}  # fmt: skip
ADDITIONS: dict[str, tuple[str, ...]] = {
    "full-norm-shift": ("adapt.share=1",),
    "no-balance": ("adapt.balance=0",),
    "anchor-grid": ("propose.scoring=dense",),
    "no-objectness": ("propose.objectness=0",),
    "entropy-ranking": ("propose.ranking=entropy",),
    "base-filter": ("propose.base_filter=true",),
    "weight-of-best-name": ("propose.weighting=best_name",),
    "no-base-overlap": ("propose.base_overlap=1",),
    "no-start-from-rpn": ("train.from_rpn=false",),
    "no-distilled-names": ("train.names_weight=0", "train.distillation_weight=1"),
    "base-labels-alone": ("train.base_labels=1",),
    "no-background-share": ("train.background_share=0",),
    "no-pseudo-boxes": ("train.pseudo_boxes=0",),
    "no-ignored-negatives": ("train.ignore_top=0",),
    "no-novel-negatives": ("train.novel_negatives=false",),
    "no-novel-rivals": ("train.novel_rivals=false",),
    "no-scale-jitter": ("train.scale_jitter=[1, 1]",),
    "no-color-jitter": ("train.color_jitter=0",),
    "no-ema": ("train.ema=0",),
    "no-box-quality": ("detector.box_quality=false",),
    "no-objectness-in-scores": ("detector.objectness_power=0",),
    "no-soft-nms": ("detector.soft_nms=0",),
    "text-of-best-name": ("detector.semantic_top_k=1",),
    "text-after-hidden": ("detector.semantic_placement=after",),
}
PRESETS = ("paper", "baseline")
COLUMNS = {
    "AP50 novel": "gzsd.ap50_novel",
    "AP50 base": "gzsd.ap50_base",
    "harmonic mean": "gzsd.harmonic_mean",
    "zsd AP50": "zsd.ap50",
    "novel recall at 100": "proposals.novel_recall_at_100",
    "teacher, novel": "teacher.accuracy_novel_after",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    show_log()
    chosen, folders = variants(arguments.recipe, arguments.changes), []
    logger.info(f"Variants: {', '.join(chosen)}")
    for seed in range(arguments.seeds):
        finished: dict[RunFolder, dict[Stage, Inputs]] = {}
        for name, variant in chosen.items():
            run, recipe = RunFolder(arguments.out / f"{name}_seed{seed}"), variant.model_copy(update={"seed": seed})
            inputs = stage_inputs(recipe, load_split(recipe.split, recipe.data.train.annotations))
            reuse_stages(run, inputs, finished)
            run_recipe(recipe, run.path, until="evaluate")
            finished[run] = inputs
            folders.append(run.path)
    print(table(folders, mean=arguments.seeds > 1))


def variants(path: str | Path, changes: Sequence[str]) -> dict[str, Recipe]:
    """Return the recipe of each variant; variants that change nothing in this recipe are left out."""
    ours = load_recipe(path, changes)
    found = {"ezsd": ours}
    for name, own in {**IDEAS, **ADDITIONS}.items():
        if load_recipe(path, [*changes, own[0]]) != ours:
            found[name] = load_recipe(path, [*changes, *own])
    presets = {name: load_recipe(path, changes, name) for name in PRESETS}
    return found | {name: recipe for name, recipe in presets.items() if recipe != ours}


def table(folders: list[Path], mean: bool) -> str:
    """Return the figures as a Markdown table with one line per variant."""
    found = compare(folders, mean=mean)
    figures = {figure.key: figure for figure in found.figures}
    lines = ["| | " + " | ".join(COLUMNS) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    for column in found.columns:
        cells = [figures[key].shown(column.values[key], column.spreads.get(key)) for key in COLUMNS.values()]
        lines.append(f"| {column.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def reuse_stages(run: RunFolder, inputs: dict[Stage, Inputs], finished: dict[RunFolder, dict[Stage, Inputs]]) -> None:
    """Copy adapted teacher and targets from a finished run that has the same inputs."""
    for stage in ("adapt", "propose"):
        for other, known in finished.items():
            source, target = other.of(stage), run.of(stage)
            if known.get(stage) == inputs[stage] and other.done(stage).exists() and not target.exists():
                building = target.with_name(f".{target.name}.part")
                shutil.rmtree(building, ignore_errors=True)
                shutil.copytree(source, building)
                building.rename(target)


if __name__ == "__main__":
    main()
