"""Split what the AP50 of a run is lost to: names, places, duplicates, background and missed objects.

    python benchmarks/errors.py runs/coco2k

Reads the detections of a run folder with a finished stage evaluate; no model runs. Each row is the AP50 after all
errors of one type are corrected, and the difference to AP50 as it is; src/ezsd/evaluation/errors.py defines the types.
Below are precision, recall and counts of errors at the default threshold of `ezsd detect`. The values of every name are
written to evaluate/errors.json in the run folder; those of up to 6 novel names are also printed.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ezsd.evaluation.errors import (
    ALL,
    AS_IS,
    FIXES,
    Matching,
    ThresholdCounts,
    ap50_by_fix,
    match_detections,
    mean_of_labels,
    threshold_counts,
)
from ezsd.recipe import load_run_recipe
from ezsd.report.compare import read_run
from ezsd.report.matching import SHOWN_SCORE
from ezsd.report.results import read_results
from ezsd.run_folder import RunFolder
from ezsd.utils.files import write_json

MOST_COLUMNS = 6  # more novel names are not printed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with a finished stage evaluate")
    parser.add_argument("--threshold", type=float, default=SHOWN_SCORE, help="minimum score for precision and recall")
    arguments = parser.parse_args()
    console = Console()
    for folder in arguments.runs:
        run = RunFolder(folder)
        inputs = read_run(folder).inputs
        names, base = (*inputs["split.base"], *inputs["split.novel"]), len(inputs["split.base"])
        results = read_results(run, load_run_recipe(run.recipe), names)
        found = split(match_detections(results.truth, results.detections), names, base, arguments.threshold)
        shown = ["base", "novel", *(names[base:] if len(names) - base <= MOST_COLUMNS else ())]
        console.print(fix_table(folder.name, found, shown), threshold_table(found, shown), sep="\n")
        write_json(run.of("evaluate") / "errors.json", found)


def split(matching: Matching, names: tuple[str, ...], base: int, threshold: float) -> dict[str, Any]:
    """Return AP50 by fix and counts at the threshold, each for base names, novel names and every name."""
    groups = {"base": range(1, base + 1), "novel": range(base + 1, len(names) + 1)}
    groups |= {name: range(label, label + 1) for label, name in enumerate(names, start=1) if name not in groups}
    counts = {group: threshold_counts(matching, labels, threshold) for group, labels in groups.items()}
    return {
        "threshold": threshold,
        "ap50": {
            fix: {group: mean_of_labels(values, labels) for group, labels in groups.items()}
            for fix, values in ap50_by_fix(matching).items()
        },
        "at_threshold": {group: at_threshold(count) for group, count in counts.items()},
    }


def at_threshold(counts: ThresholdCounts) -> dict[str, Any]:
    values = dataclasses.asdict(counts)
    return {**values, "precision": counts.precision, "recall": counts.recall, "f1": counts.f1}


def fix_table(title: str, found: dict[str, Any], groups: list[str]) -> Table:
    """Return a table of AP50 after each fix and its difference to AP50 as it is."""
    table = Table("AP50 after the fix of", title=f"{title}: what AP50 is lost to", title_justify="left")
    for group in groups:
        table.add_column(group, justify="right")
    as_is = found["ap50"][AS_IS]
    table.add_row("nothing", *(_shown(as_is[group], 1) for group in groups))
    for fix in (*FIXES, ALL):
        cells = []
        for group in groups:
            value, before = found["ap50"][fix][group], as_is[group]
            cells.append("-" if value is None or before is None else f"{value:.1f} ({value - before:+.1f})")
        table.add_row(fix.replace("_", " "), *cells)
    return table


def threshold_table(found: dict[str, Any], groups: list[str]) -> Table:
    """Return a table of precision, recall and the number of errors of each type at the threshold."""
    table = Table(f"detections with a score of at least {found['threshold']}")
    counts = [found["at_threshold"][group] for group in groups]
    for group in groups:
        table.add_column(group, justify="right")
    for key in ("precision", "recall", "f1"):
        table.add_row(key, *(_shown(count[key], 3) for count in counts))
    for key in ("found", "missed"):
        table.add_row(f"objects {key}", *(f"{count[key]:,}" for count in counts))
    for error in counts[0]["errors"]:
        table.add_row(f"errors of {error.replace('_', ' ')}", *(f"{count['errors'][error]:,}" for count in counts))
    return table


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    main()
