"""Novel AP50 against the length of the training: ezsd, the published method and two baselines.

    python benchmarks/schedule.py pocket --out runs/schedule

Every variant is trained for 1/20, 1/10, 1/5, 1/2 and the whole of the recipe's epochs. Each length is a training of its
own, with its whole learning rate schedule, over several seeds. Variants:

- ezsd: the recipe.
- paper: the published method (preset paper).
- plain-baseline: earlier distillation (ViLD) without any addition: presets paper and baseline together.
- baseline: the recipe without the three ideas (preset baseline), with every addition that is not one of them: distilled
  names, augmentation, averages of weights, objectness and box quality in the scores, anchors.

Short trainings need other settings than long ones: more steps with fewer images, a short warm-up, and less weight on
the L1 loss beside distilled names. So every variant, the baselines included, is trained at the short lengths with the
recipe's settings and with those of the preset short; variants without distilled names keep their L1 weight. Its result
is that of the settings with the higher base AP50 (mean over the seeds), so that no novel box decides.

Prints a table, the first length at which ezsd reaches the final novel AP50 of the others, in steps and in seconds, and
writes schedule.json and schedule.svg. Seconds are those of adapt, propose and train, so mining is part of the bill.
Every run is a run folder in OUT: interrupted runs resume. Stages that runs have in common are computed once and billed
to each of them. Changes by --set are applied before the presets.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ablation import reuse_stages
from ezsd.data.categories import load_split
from ezsd.pipeline.fingerprints import Inputs, stage_inputs
from ezsd.pipeline.run import run_recipe
from ezsd.recipe import Recipe, load_recipe, parse_recipe
from ezsd.recipe_files import find_preset, parse_yaml
from ezsd.report.charts import ceiling
from ezsd.run_folder import RunFolder, Stage
from ezsd.run_metrics import EvaluateMetrics, TrainMetrics, read_metrics
from ezsd.utils.files import read_json_if_exists, write_json, write_text
from ezsd.utils.log import show_log

SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
SHORT_UP_TO = 0.2
VARIANTS: dict[str, tuple[str, ...]] = {
    "ezsd": (),
    "paper": ("paper",),
    "plain-baseline": ("paper", "baseline"),
    "baseline": ("baseline",),
}
COLORS = {"ezsd": "#0b6e4f", "paper": "#7b5ea7", "plain-baseline": "#b3541e", "baseline": "#c9a227"}


@dataclass(frozen=True)
class Point:
    """A variant at one length of the training: means over the seeds, and standard deviations of the AP50.

    Attributes:
        variant: The name of the variant.
        share: The part of the recipe's epochs.
        settings: "recipe" or "short".
        steps: Training steps.
        images: Images seen in training.
        seconds: Seconds of adapt, propose and train.
        novel: AP50 of novel names (gzsd).
        novel_spread: Its standard deviation; None for one seed.
        base: AP50 of base names (gzsd).
    """

    variant: str
    share: float
    settings: str
    steps: float
    images: float
    seconds: float
    novel: float
    novel_spread: float | None
    base: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    show_log()
    points = []
    for share in sorted(given.shares):
        for variant in given.variants:
            recipe = variant_recipe(given.recipe, given.changes, variant)
            tried = [(settings, at_length(recipe, share, settings)) for settings in settings_of(share)]
            found = [measure(variant, share, settings, each, given.out, given.seeds) for settings, each in tried]
            points.append(max(found, key=lambda point: point.base))
            write_json(given.out / "schedule.json", [asdict(point) for point in points])
    write_text(given.out / "schedule.svg", plot(points))
    print(table(points), *crossings(points), sep="\n")


def variant_recipe(path: str | Path, changes: Sequence[str], variant: str) -> Recipe:
    """Return the recipe of a variant: ``changes``, then its presets one after the other."""
    values = load_recipe(path, changes).model_dump(mode="json")
    for preset in VARIANTS[variant]:
        for key, value in parse_yaml(find_preset(preset).read_text(encoding="utf-8")).items():
            values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return parse_recipe(values, f"{path}, variant {variant}")


def settings_of(share: float) -> tuple[str, ...]:
    """Return the settings that are tried at a length."""
    return ("recipe", "short") if share <= SHORT_UP_TO else ("recipe",)


def at_length(recipe: Recipe, share: float, settings: str) -> Recipe:
    """Return the recipe with a part of its epochs, and with the settings for short trainings if asked for."""
    train = recipe.train.model_copy(update={"epochs": recipe.train.epochs * share})
    if settings == "short":
        values = parse_yaml(find_preset("short").read_text(encoding="utf-8"))["train"]
        own = ("names_weight", "distillation_weight") if not train.names_weight else ()
        train = train.model_copy(update={key: value for key, value in values.items() if key not in own})
    return recipe.model_copy(update={"train": train})


def measure(variant: str, share: float, settings: str, recipe: Recipe, out: Path, seeds: int) -> Point:
    """Run a variant at one length with every seed, and return the means."""
    metrics = []
    for seed in range(seeds):
        run = RunFolder(out / f"{variant}_{settings}_{share:g}_seed{seed}")
        own = recipe.model_copy(update={"seed": seed})
        inputs = stage_inputs(own, load_split(own.split, own.data.train.annotations))
        reuse_stages(run, inputs, _finished(out, f"seed{seed}"))
        run_recipe(own, run.path, until="evaluate")
        metrics.append(
            (
                read_metrics(run.metrics("evaluate"), EvaluateMetrics),
                read_metrics(run.metrics("train"), TrainMetrics),
            )
        )
    novel = [found.gzsd.ap50_novel or 0.0 for found, _ in metrics]
    costs = [found.cost for found, _ in metrics]
    return Point(
        variant,
        share,
        settings,
        steps=statistics.fmean(train.steps or 0 for _, train in metrics),
        images=statistics.fmean(train.images or 0 for _, train in metrics),
        seconds=statistics.fmean((cost.adapt_s or 0) + (cost.propose_s or 0) + (cost.train_s or 0) for cost in costs),
        novel=statistics.fmean(novel),
        novel_spread=statistics.stdev(novel) if seeds > 1 else None,
        base=statistics.fmean(found.gzsd.ap50_base or 0.0 for found, _ in metrics),
    )


def _finished(out: Path, seed: str) -> dict[RunFolder, dict[Stage, Inputs]]:
    """Return the runs of a seed with the inputs of their finished stages adapt and propose."""
    found: dict[RunFolder, dict[Stage, Inputs]] = {}
    stages: tuple[Stage, ...] = ("adapt", "propose")
    for run in (RunFolder(path) for path in sorted(out.glob(f"*_{seed}"))):
        found[run] = {stage: read_json_if_exists(run.inputs(stage)) for stage in stages if run.done(stage).exists()}
    return found


def table(points: Sequence[Point]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| variant | part of the schedule | settings | steps | images | seconds with mining | AP50 novel | AP50 base |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for point in sorted(points, key=lambda each: (list(VARIANTS).index(each.variant), each.share)):
        spread = "" if point.novel_spread is None else f" ± {point.novel_spread:.1f}"
        lines.append(
            f"| {point.variant} | {point.share:g} | {point.settings} | {point.steps:,.0f} | {point.images:,.0f} | "
            f"{point.seconds:,.0f} | {point.novel:.1f}{spread} | {point.base:.1f} |"
        )
    return "\n".join(lines)


def crossings(points: Sequence[Point]) -> list[str]:
    """Say for each other variant at which length ezsd reaches the novel AP50 of its longest training."""
    ours = sorted((point for point in points if point.variant == "ezsd"), key=lambda point: point.share)
    lines = []
    for name in (name for name in VARIANTS if name != "ezsd"):
        others = [point for point in points if point.variant == name]
        if not others or not ours:
            continue
        final = max(others, key=lambda point: point.share)
        first = next((point for point in ours if point.novel >= final.novel), None)
        target = (
            f"the novel AP50 of {name} after {final.images:,.0f} images, {final.steps:,.0f} steps and "
            f"{final.seconds:,.0f} s ({final.novel:.1f})"
        )
        if first is None:
            lines.append(f"- ezsd does not reach {target}.")
        else:
            lines.append(
                f"- ezsd reaches {target} at {first.share:g} of the schedule: {first.images:,.0f} images, "
                f"{first.steps:,.0f} steps, {first.seconds:,.0f} s ({first.novel:.1f})."
            )
    return lines


def plot(points: Sequence[Point]) -> str:
    """Return an SVG with novel AP50 against images seen (left) and seconds with mining (right)."""
    panels = [
        _panel(points, "images", "images seen in training", 0),
        _panel(points, "seconds", "seconds: adapt, propose and train", 420),
    ]
    legend = [
        f'<rect x="{60 + 170 * at}" y="292" width="14" height="4" fill="{COLORS[name]}"/>'
        f'<text x="{80 + 170 * at}" y="299">{name}</text>'
        for at, name in enumerate(dict.fromkeys(point.variant for point in points))
    ]
    return "\n".join([
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 310" font-family="sans-serif" font-size="12" '
        'role="img" aria-label="AP50 of novel names against the length of the training">',
        '<rect width="840" height="310" fill="#ffffff"/>', *panels, *legend, "</svg>",
    ])  # fmt: skip


def _panel(points: Sequence[Point], quantity: str, title: str, left: int) -> str:
    x0, y0, width, height = left + 50, 240, 340, 210
    right = ceiling(getattr(point, quantity) for point in points)
    top = ceiling(point.novel + (point.novel_spread or 0) for point in points)
    parts = [
        f'<path d="M{x0} {y0 - height}V{y0}H{x0 + width}" fill="none" stroke="#444"/>',
        f'<text x="{x0 + width / 2}" y="{y0 + 32}" text-anchor="middle">{title}</text>',
        f'<text x="{x0}" y="{y0 - height - 10}">AP50 novel</text>',
    ]
    for part in (0, 0.5, 1):
        x, y = x0 + part * width, y0 - part * height
        parts.append(f'<text x="{x}" y="{y0 + 16}" text-anchor="middle">{part * right:,.0f}</text>')
        parts.append(f'<text x="{x0 - 6}" y="{y + 4}" text-anchor="end">{part * top:g}</text>')
        parts.append(f'<path d="M{x0} {y}H{x0 + width}" stroke="#ddd"/>')
    for name in dict.fromkeys(point.variant for point in points):
        own = sorted((point for point in points if point.variant == name), key=lambda point: point.share)
        spots = [
            (x0 + width * getattr(point, quantity) / right, y0 - height * point.novel / top, point) for point in own
        ]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in spots)
        parts.append(f'<path d="M{path}" fill="none" stroke="{COLORS[name]}" stroke-width="2"/>')
        for x, y, point in spots:
            half = height * (point.novel_spread or 0) / top
            parts.append(f'<path d="M{x:.1f} {y - half:.1f}V{y + half:.1f}" stroke="{COLORS[name]}"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLORS[name]}"/>')
    return "\n".join(parts)


if __name__ == "__main__":
    main()
