"""What novel names can expect, without a single box of them: base names are left out and detected as novel names.

    python benchmarks/left_out.py aquarium.yaml --out runs/left_out

A part of the base names, spread over their numbers of boxes, becomes the novel names of the recipe; the user's novel
names are not part of the run, and no box of theirs is read. The run is an ordinary one, so it takes as long, and a
finished or interrupted run resumes. Prints, for the kept and the left-out names,

- the AP50, detected together;
- what the box head says on the exact boxes of val objects: the share that is called background is the figure to watch;
- the share of random background boxes that get a name: it rises if only the former is lowered.

The report of the run (OUT/report.html) shows the same and more.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ezsd.data.categories import load_split
from ezsd.data.formats.coco import count_boxes, load_images
from ezsd.errors import EzsdError, RecipeError
from ezsd.pipeline.run import run_recipe
from ezsd.recipe import Recipe, load_recipe
from ezsd.report.page import write_report
from ezsd.run_folder import RunFolder
from ezsd.run_metrics import EvaluateMetrics, read_metrics
from ezsd.utils.log import show_log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.25, help="the part of the base names to leave out")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    show_log()
    try:
        recipe = left_out_recipe(load_recipe(given.recipe, given.changes), given.share)
        run_recipe(recipe, given.out, until="evaluate")
        write_report(given.out)
    except EzsdError as error:
        parser.exit(2, f"{error}\n")
    metrics = read_metrics(RunFolder(given.out).metrics("evaluate"), EvaluateMetrics)
    print(table(metrics, load_split(recipe.split, recipe.data.train.annotations).novel))


def left_out_recipe(recipe: Recipe, share: float) -> Recipe:
    """Return the recipe with a part of its base names as novel names, and without its novel names.

    Raises:
        RecipeError: Fewer than two base names have boxes in the train and the val part.
    """
    base = load_split(recipe.split, recipe.data.train.annotations).base
    parts = (recipe.data.train, recipe.data.val)
    counts = [count_boxes(load_images(part, base, recipe.data.skip_bad))[0] for part in parts]
    left = left_out(*counts, share)
    if not left:
        raise RecipeError(
            "Fewer than two base names have boxes in the train and the val part, so none can be left out. "
            "Use a data set with boxes of more names."
        )
    split = {"base": [name for name in base if name not in left], "novel": left}
    return recipe.model_copy(update={"split": split})


def left_out(train: Counter[str], val: Counter[str], share: float) -> list[str]:
    """Return the names to leave out: every n-th of those with boxes in both parts, by their number of train boxes."""
    known = sorted((name for name in train if train[name] and val[name]), key=lambda name: (-train[name], name))
    step = min(max(2, round(1 / share)), len(known))
    return known[step // 2 :: step] if len(known) > 1 else []


def table(metrics: EvaluateMetrics, left: Sequence[str]) -> str:
    """Return the figures of a run as a Markdown table."""
    exact, alarms = metrics.exact_boxes, metrics.false_alarms
    rows = [
        ("AP50", metrics.gzsd.ap50_base, metrics.gzsd.ap50_novel, 1),
        ("exact boxes of objects called background", exact.base.called_background, exact.novel.called_background, 3),
        ("random background boxes with a name", alarms.base, alarms.novel, 3),
    ]
    lines = [f"left out: {', '.join(left)}", "", "| | kept names | left-out names |", "| --- | --- | --- |"]
    for title, kept, lost, digits in rows:
        shown = ("not measured" if value is None else f"{value:.{digits}f}" for value in (kept, lost))
        lines.append(f"| {title} | {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
