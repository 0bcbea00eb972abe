"""Ablation: disable ideas one at a time and together, and print one table with mean and standard deviation over seeds.

The first variants disable the three published ideas, one at a time and all together (baseline). The others disable the
additions of this package, one at a time and all together (ideas-alone).

    python benchmarks/ablation.py recipes/pocket.yaml --out runs/ablation --seeds 3

Every run is a run folder in OUT: interrupted runs resume, and `ezsd report` and `ezsd compare` can read them. Stages
that two variants of a seed have in common (adapted teacher, targets) are computed once.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ezsd.commands.demo import BASELINE
from ezsd.pipeline.run import run_recipe
from ezsd.recipe import load_recipe
from ezsd.report.compare import compare
from ezsd.utils.log import show_log

VARIANTS: dict[str, tuple[str, ...]] = {
    "ezsd": (),
    "no-adaptation": ("adapt.enabled=false",),
    "rpn-regions": (
        "propose.scoring=rpn", "propose.base_overlap=1", "train.ignore_top=0", "train.novel_negatives=false",
    ),
    "no-semantic-regression": ("detector.semantic_regression=false",),
    "baseline": BASELINE,
    "no-distilled-names": ("train.names_weight=0", "train.distillation_weight=0.5"),
    "no-objectness": ("propose.objectness=0",),
    "no-base-overlap": ("propose.base_overlap=1",),
    "no-novel-negatives": ("train.novel_negatives=false",),
    "ideas-alone": (
        "propose.objectness=0", "propose.base_overlap=1", "train.ignore_top=0", "train.novel_negatives=false",
        "train.names_weight=0", "train.distillation_weight=0.5",
    ),
}  # fmt: skip
SHARED = {  # stage folders that are the same as in variant ezsd
    "rpn-regions": ("adapt",),
    "no-semantic-regression": ("adapt", "targets"),
    "no-distilled-names": ("adapt", "targets"),
    "no-objectness": ("adapt",),
    "no-base-overlap": ("adapt",),
    "no-novel-negatives": ("adapt", "targets"),
    "ideas-alone": ("adapt",),
}
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
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    show_log()
    folders = []
    for seed in range(arguments.seeds):
        for name, changes in VARIANTS.items():
            folder = arguments.out / f"{name}_seed{seed}"
            for stage in SHARED.get(name, ()):
                _copied(arguments.out / f"ezsd_seed{seed}" / stage, folder / stage)
            recipe = load_recipe(arguments.recipe, [*arguments.changes, *changes, f"seed={seed}"])
            run_recipe(recipe, folder, until="evaluate")
            folders.append(folder)
    print(table(folders, mean=arguments.seeds > 1))


def table(folders: list[Path], mean: bool) -> str:
    """Return the figures as a Markdown table with one line per variant."""
    found = compare(folders, mean=mean)
    figures = {figure.key: figure for figure in found.figures}
    lines = ["| | " + " | ".join(COLUMNS) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    for column in found.columns:
        cells = [figures[key].shown(column.values[key], column.spreads.get(key)) for key in COLUMNS.values()]
        lines.append(f"| {column.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _copied(source: Path, target: Path) -> None:
    if not target.exists():
        building = target.with_name(f".{target.name}.part")
        shutil.rmtree(building, ignore_errors=True)
        shutil.copytree(source, building)
        building.rename(target)


if __name__ == "__main__":
    main()
