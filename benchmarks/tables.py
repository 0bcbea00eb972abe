"""Markdown tables and alternating measurements, shared by the benchmarks."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Row = Mapping[str, Any]


def median_seconds(
    works: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Run all functions alternately; return the median seconds of each. The first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            began = clock()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(clock() - began)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def clock_of_computation() -> Callable[[], float]:
    """Return the clock for work that only computes: of one thread the CPU time, which other work changes less."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time if alone else time.perf_counter


def operators(work: Callable[[], Any], count: int = 8) -> list[Row]:
    """Return the operators of torch that take most of the CPU time of a function, and their shares of it."""
    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        work()
    events = sorted(profile.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True)
    total = sum(event.self_cpu_time_total for event in events)
    shares = [{"operator": event.key, "calls": event.count, "%": 100 * event.self_cpu_time_total / total}
              for event in events[:count]]  # fmt: skip
    return [*shares, {"operator": "others", "calls": sum(event.count for event in events[count:]),
                      "%": 100 - sum(row["%"] for row in shares)}]  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """Return rows with the same keys as a Markdown table; None is "not measured"."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if isinstance(value, (int, float)) else str(value)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file, too")


def show(rows: Sequence[Row], path: Path | None) -> None:
    """Print rows as a table, and write them as JSON if a path is given."""
    print(markdown(rows))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=1) + "\n")
