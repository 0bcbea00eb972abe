"""Tests of ``ezsd plan --gpus``: the projected cost follows from paces, sizes and settings."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from ezsd.commands.projection import COCO, DataSize, mining_seconds, projection, stored_bytes, training_seconds
from ezsd.commands.timing import Measured
from ezsd.pipeline.workload import Pace
from ezsd.recipe import Recipe, load_recipe

PACES = {"rpn step": 0.5, "propose in an image": 2.0, "train step": 1.0}
MEASURED = Measured({kind: Pace(pace, pace, pace) for kind, pace in PACES.items()}, 512, 0, 0, None, None, 1.0)


def _recipe(*changes: str) -> Recipe:
    fixed = ["train.batch_size=4", "train.epochs=3", "propose.keep=10", "propose.rpn_epochs=2"]
    return load_recipe("pocket", [*fixed, *changes])


def test_costs_are_paces_times_units() -> None:
    size = DataSize("some", 1000, 7000)
    assert training_seconds(_recipe(), MEASURED, size) == 1000 * 3 / 4
    assert mining_seconds(_recipe(), MEASURED, size) == 1000 * 2 / 4 * 0.5 + 1000 * 2.0
    assert stored_bytes(_recipe(), MEASURED, size) == (1000 * 10 + 7000) * (2 * 512 + 29)


def test_a_step_of_several_batches_has_more_images() -> None:
    assert training_seconds(_recipe("train.accumulate=2"), MEASURED, COCO) == COCO.images * 3 / 8


def test_nothing_is_mined_without_distillation() -> None:
    plain = _recipe("train.distillation_weight=0", "train.names_weight=0", "train.ignore_top=0")
    assert mining_seconds(plain, MEASURED, COCO) == 0 and stored_bytes(plain, MEASURED, COCO) == 0


@pytest.mark.parametrize("devices, training", [(1, "25 h"), (8, "3.1 h")])
def test_more_devices_divide_the_time(devices: int, training: str) -> None:
    out = StringIO()
    Console(file=out, width=100).print(projection(_recipe(), MEASURED, devices))
    line = next(line for line in out.getvalue().splitlines() if "COCO" in line)
    assert training in line.replace("\N{NO-BREAK SPACE}", " ") and "GB" in line
    assert "10,000,000 images" in out.getvalue()
