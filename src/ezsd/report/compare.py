"""Compare the metrics of runs in one table: text, CSV or HTML."""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from ezsd.errors import ArtifactError
from ezsd.evaluation.summary import SETTINGS
from ezsd.recipe import renamed_keys
from ezsd.report.figures import FIGURES, OPTIONAL_PREFIXES, Figure
from ezsd.report.render import render
from ezsd.run_folder import RunFolder
from ezsd.run_metrics import EvaluateMetrics, read_metrics
from ezsd.utils.files import read_json_object
from ezsd.utils.format import shell_quoted

_LABEL_WIDTH, _COLUMN_WIDTH = 34, 18
_SHORT_DIGEST = 15
_SPLIT_KEYS = ("split.base", "split.novel")
_VAL_KEYS = ("data.val.annotations", "data.val.images", "data.val.limit")


@dataclass(frozen=True)
class Run:
    """The metrics of a finished run.

    Attributes:
        folder: The run folder.
        setting: strict, named, few_shot or open.
        split: The name of the split.
        inputs: The inputs of stage evaluate, by recipe key; data as digests.
        values: The metrics, by the key of a :class:`Figure`. None means "not measured".
    """

    folder: Path
    setting: str
    split: str
    inputs: dict[str, Any]
    values: dict[str, float | None]


@dataclass(frozen=True)
class Column:
    """A column of the table: one run, or the mean of several runs that differ only in their seed.

    Attributes:
        name: The name of the run folder, or the common part of the names.
        setting: strict, named, few_shot or open.
        split: The name of the split.
        runs: The number of runs.
        values: The metrics, by the key of a :class:`Figure`. None means "not measured".
        spreads: The sample standard deviations, by the same keys; empty for a single run.
    """

    name: str
    setting: str
    split: str
    runs: int
    values: dict[str, float | None]
    spreads: dict[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """The table of compared runs.

    Attributes:
        columns: The runs, in the given order.
        figures: The rows. Rows of optional metrics are included only if a run has them.
        recipes: Pairs (recipe key, value in each column as text) of the keys whose values differ.
        warnings: Why the metrics are not comparable (only with ``mixed``).
    """

    columns: tuple[Column, ...]
    figures: tuple[Figure, ...]
    recipes: tuple[tuple[str, tuple[str, ...]], ...]
    warnings: tuple[str, ...]


def read_run(folder: Path) -> Run:
    """Read the metrics of a run whose stage evaluate is finished.

    Raises:
        ArtifactError: ``folder`` is not a run folder, stage evaluate is not finished, or a file cannot be read.
    """
    run = RunFolder(folder)
    run.check()
    if not run.done("evaluate").is_file():
        raise ArtifactError(f"{folder}: stage evaluate is not finished. Run: ezsd evaluate {shell_quoted(folder)}")
    metrics = read_metrics(run.metrics("evaluate"), EvaluateMetrics)
    values = {figure.key: _value(metrics, figure.key) for figure in FIGURES}
    values["cost.evaluate_s"] = read_json_object(run.done("evaluate")).get("seconds")
    inputs = renamed_keys(read_json_object(run.inputs("evaluate")))
    return Run(folder, metrics.setting, metrics.split, inputs, values)


def compare(folders: Sequence[Path], mixed: bool = False, mean: bool = False) -> Comparison:
    """Compare the metrics of runs.

    Args:
        folders: The run folders.
        mixed: Allow runs with different settings, splits or val images. The table then contains warnings.
        mean: Combine runs that differ only in their seed into one column with mean and standard deviation.

    Raises:
        ArtifactError: A run cannot be read, the runs are not comparable, or a run is given twice with ``mean``. All
            problems of reading are raised at once.
    """
    runs: list[Run] = []
    problems: list[str] = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except ArtifactError as error:
            problems += error.problems
    if problems:
        raise ArtifactError(problems)
    warnings = list(mismatches(runs).values())
    if warnings and not mixed:
        raise ArtifactError([*warnings, "Their metrics are not comparable. Use --mixed to compare them anyway."])
    return tabulate(_by_recipe(runs) if mean else [[run] for run in runs], warnings)


def mismatches(runs: Sequence[Run]) -> dict[str, str]:
    """Return a message for each of setting, split and val images in which runs differ, so are not comparable."""
    names = _names([run.folder for run in runs])
    messages = {}
    kinds: dict[str, list[Any]] = {
        "setting": [run.setting for run in runs],
        "split": [[run.inputs.get(key) for key in _SPLIT_KEYS] for run in runs],
        "val images": [[run.inputs.get(key) for key in _VAL_KEYS] for run in runs],
    }
    for kind, found in kinds.items():
        if all(value == found[0] for value in found):
            continue
        if kind == "setting":
            texts = [f"{name}: {value}{SETTINGS.get(value, '')}" for name, value in zip(names, found, strict=True)]
        else:
            groups = [next(place for place, other in enumerate(found) if other == value) for value in found]
            texts = [f"{name}: same as {names[group]}" if names[group] != name else
                     f"{name}: {run.split if kind == 'split' else 'its own'}"
                     for name, group, run in zip(names, groups, runs, strict=True)]  # fmt: skip
        messages[kind] = f"The runs have different {kind}{'' if kind.endswith('s') else 's'}: {'; '.join(texts)}."
    return messages


def tabulate(groups: Sequence[Sequence[Run]], warnings: Sequence[str] = ()) -> Comparison:
    """Make the table. Each group of runs becomes one column; a group of several runs becomes their mean."""
    names = _names([Path(_common_name([run.folder for run in group])) for group in groups])
    columns = tuple(_column(name, group) for name, group in zip(names, groups, strict=True))
    figures = tuple(
        figure for figure in FIGURES
        if not figure.key.startswith(OPTIONAL_PREFIXES)
        or any(column.values[figure.key] is not None for column in columns)
    )  # fmt: skip
    return Comparison(columns, figures, _recipe_differences(groups), tuple(warnings))


def as_text(table: Comparison, width: int = 100) -> Group:
    """Return the table for a terminal of ``width`` characters. Runs that do not fit are put into further tables."""
    fit = max(1, (width - _LABEL_WIDTH) // _COLUMN_WIDTH)
    parts: list[Any] = [Text(f"Warning: {warning}", style="yellow") for warning in table.warnings]
    for start in range(0, len(table.columns), fit):
        parts.append(_text_part(table, start, start + fit))
    return Group(*parts)


def as_csv(table: Comparison) -> str:
    """Return the table as CSV: one line per run, with the values of metrics.json. Missing values are empty.

    If a column is the mean of several runs, ``KEY.std`` follows each metric.
    """
    spread = any(column.runs > 1 for column in table.columns)
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    keys = [figure.key for figure in table.figures]
    out.writerow(["run", "runs", "setting", "split",
                  *(name for key in keys for name in ((key, f"{key}.std") if spread else (key,)))])  # fmt: skip
    for column in table.columns:
        cells = [
            value
            for key in keys
            for value in ((column.values[key], column.spreads.get(key)) if spread else (column.values[key],))
        ]
        out.writerow([column.name, column.runs, column.setting, column.split,
                      *("" if cell is None else cell for cell in cells)])  # fmt: skip
    return text.getvalue()


def as_html(table: Comparison) -> str:
    """Return the table as a self-contained HTML page."""
    return render("compare.html.j2", title="Runs compared", table=table, SETTINGS=SETTINGS)


def _value(metrics: EvaluateMetrics, key: str) -> float | None:
    found: Any = metrics
    for part in key.split("."):
        found = getattr(found, part, None)
    return found


def _by_recipe(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs that differ only in their seed.

    Raises:
        ArtifactError: Two runs have the same recipe and seed.
    """
    groups: list[list[Run]] = []
    problems = []
    for run in runs:
        for group in groups:
            if {**run.inputs, "seed": None} == {**group[0].inputs, "seed": None}:
                problems += [
                    f"{run.folder} and {other.folder} have the same recipe and the same seed, so a mean would count "
                    "the run twice. Leave out one of them." for other in group if other.inputs == run.inputs
                ]  # fmt: skip
                group.append(run)
                break
        else:
            groups.append([run])
    if problems:
        raise ArtifactError(problems)
    return groups


def _column(name: str, group: Sequence[Run]) -> Column:
    first = group[0]
    if len(group) == 1:
        return Column(name, first.setting, first.split, 1, first.values, {})
    values: dict[str, float | None] = {}
    spreads: dict[str, float | None] = {}
    for figure in FIGURES:
        measured = [value for run in group if (value := run.values[figure.key]) is not None]
        complete = len(measured) == len(group)
        values[figure.key] = statistics.fmean(measured) if complete else None
        spreads[figure.key] = statistics.stdev(measured) if complete else None
    return Column(f"{name} ({len(group)} seeds)", first.setting, first.split, len(group), values, spreads)


def _common_name(folders: Sequence[Path]) -> str:
    """Return the common prefix of the folder names of a group, or the name of the first folder if it is empty."""
    if len(folders) == 1:
        return str(folders[0])
    names = [folder.resolve().name for folder in folders]
    shared = os.path.commonprefix(names).rstrip("-_. ").removesuffix("seed").rstrip("-_. ")  # noqa: RUF071
    return str(folders[0].parent / (shared or names[0]))


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the folder names of runs; names that occur more than once include the parent folder."""
    paths = [folder.resolve() for folder in folders]
    count = Counter(path.name for path in paths)
    return [path.name if count[path.name] == 1 else f"{path.parent.name}/{path.name}" for path in paths]


def _recipe_differences(groups: Sequence[Sequence[Run]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the recipe keys that all runs have and whose values differ. The seeds of a group are joined."""
    firsts = [group[0].inputs for group in groups]
    rows = []
    for key in firsts[0]:
        if key in _SPLIT_KEYS or not all(key in inputs for inputs in firsts):
            continue
        if key == "seed":
            texts = tuple(", ".join(_plain(run.inputs[key]) for run in group) for group in groups)
        else:
            texts = tuple(_plain(inputs[key]) for inputs in firsts)
        if len(set(texts)) > 1:
            rows.append((key, texts))
    return tuple(rows)


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:_SHORT_DIGEST] if text.startswith("sha256:") else text


def _text_part(table: Comparison, start: int, stop: int) -> RichTable:
    columns = table.columns[start:stop]
    out = RichTable(title_justify="left", show_lines=False)
    out.add_column("", max_width=_LABEL_WIDTH + 6)
    for column in columns:
        out.add_column(Text(column.name), justify="right")
    for title, texts in (("setting", [column.setting for column in columns]),
                         ("split", [column.split for column in columns])):  # fmt: skip
        out.add_row(title, *texts)
    group = ""
    for figure in table.figures:
        if figure.group != group:
            group = figure.group
            out.add_section()
            out.add_row(Text(group, style="bold"))
        out.add_row(f"  {figure.title}", *(Text(figure.shown(column.values[figure.key], column.spreads.get(figure.key)))
                                          for column in columns))  # fmt: skip
    if table.recipes and len(table.columns) > 1:
        out.add_section()
        out.add_row(Text("Recipe keys that differ", style="bold"))
        for key, values in table.recipes:
            out.add_row(Text(f"  {key}"), *map(Text, values[start:stop]))
    return out
