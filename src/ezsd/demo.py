"""The demo: the pocket data, a run of EZSD, the baseline without its three ideas, and what both give side by side.

The two runs go at the same time, each on half of the cores: pictures this small keep few threads busy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from ezsd.compare import as_text, compare
from ezsd.data.categories import load_split
from ezsd.data.pocket import make_pocket
from ezsd.errors import ArtifactError
from ezsd.files import written_whole
from ezsd.predict import Detector, draw
from ezsd.progress import say
from ezsd.recipe import load_recipe
from ezsd.report import write_report
from ezsd.run import run_recipe

# ViLD: raw teacher, regions of an RPN trained on base boxes, no meaning in the box regression (METHOD: baselines).
BASELINE = (
    "adapt.enabled=false",
    "propose.scoring=rpn",
    "propose.base_overlap=1",
    "detector.semantic_regression=false",
    "train.ignore_top=0",
    "train.novel_negatives=false",
)
PHOTOS, FAST_PHOTOS = 900, 350
FAST = ("adapt.epochs=4", "propose.rpn_epochs=3", "train.epochs=6")
UNHEARD = ("rocket", "guitar", "spider", "octopus", "soccer ball", "snowman")  # in no list of base or novel names
_SCENES = 60  # test scenes that are searched for the unheard names
_THRESHOLD = 0.2


def run_demo(out: Path, fast: bool = False, overwrite: bool = False) -> dict[str, Path]:
    """Make the pocket data, run EZSD and its baseline on it, print their figures, and write report and picture.

    Args:
        out: gets pocket_N/ (the data), ezsd/ and baseline/ (run folders) and unheard.jpg.
        fast: fewer scenes and shorter trainings; it shows that all works, not how well.
        overwrite: redo what another version or setting left in ``out``.

    Returns:
        ``report`` and ``picture``.

    Raises:
        MissingExtraError: the extra ``pocket`` is not installed.
        ArtifactError: ``out`` holds runs of other settings, or cannot be written.
    """
    photos = FAST_PHOTOS if fast else PHOTOS
    data = make_pocket(out / f"pocket_{photos}", photos)
    changes = [
        f"data.{part}.{key}={data[file]}"
        for part in ("train", "val")
        for key, file in (("images", "images"), ("annotations", part))
    ]
    changes += FAST if fast else ()
    ours, baseline = out / "ezsd", out / "baseline"
    with _beside(pocket_recipe(), baseline, [*changes, *BASELINE], overwrite):
        run_recipe(load_recipe(pocket_recipe(), changes), ours, "evaluate", overwrite)
    console = Console(highlight=False)
    console.print(as_text(compare([ours, baseline]), console.width))
    report = write_report(ours, baseline)
    picture = _unheard(ours / "train" / "model", sorted(data["images"].glob("test_*"))[:_SCENES], out)
    return {"report": report, "picture": picture}


@contextmanager
def _beside(recipe: Path, folder: Path, changes: Sequence[str], overwrite: bool) -> Iterator[None]:
    """Run a recipe in another process while the body of ``with`` runs, each on half of the cores; wait for it then.

    Raises:
        ArtifactError: the other run fails.
    """
    log, threads = folder.with_suffix(".log"), torch.get_num_threads()
    half = max(1, threads // 2)
    command = [sys.executable, "-m", "ezsd", "run", str(recipe), "--out", str(folder)]
    command += [word for change in changes for word in ("--set", change)] + ["--overwrite"] * overwrite
    say(f"The baseline, without the three ideas and on the same schedule, runs at the same time: see {log}")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        other = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT,
                                 env={**os.environ, "OMP_NUM_THREADS": str(half)})  # fmt: skip
    torch.set_num_threads(half)
    try:
        yield
        if other.poll() is None:
            say("The baseline is not finished yet ...")
        if other.wait():
            raise ArtifactError([f"The baseline failed, see {log}:", *log.read_text().splitlines()[-3:]])
    finally:
        other.terminate()
        other.wait()
        torch.set_num_threads(threads)


def pocket_recipe() -> Path:
    """Return recipes/pocket.yaml, of the installed package or of the repository.

    Raises:
        ArtifactError: neither has it.
    """
    package = Path(__file__).parent
    for folder in (package / "recipes", package.parents[1] / "recipes"):
        if (folder / "pocket.yaml").is_file():
            return folder / "pocket.yaml"
    raise ArtifactError(f"recipes/pocket.yaml is neither in {package} nor beside it. Install ezsd again.")


def _unheard(model: Path, scenes: Sequence[Path], out: Path) -> Path:
    """Ask for names that no list holds; draw the scene in which the detector is surest of one."""
    detector = Detector.load(model)
    names = (*load_split("pocket").names, *UNHEARD)
    found = detector(list(scenes), names, _THRESHOLD)
    told = [
        [(name, score) for name, score in zip(np.asarray(part["class_name"]), np.asarray(part.confidence), strict=True)
         if name in UNHEARD] for part in found
    ]  # fmt: skip
    best = max(range(len(scenes)), key=lambda index: max((score for _, score in told[index]), default=0.0))
    path = out / "unheard.jpg"
    with written_whole(path) as temporary:
        draw(scenes[best], found[best]).save(temporary, format="JPEG", quality=92)
    answer = ", ".join(f"{name} {score:.2f}" for name, score in told[best]) or "none was found"
    say(f"Asked for {', '.join(UNHEARD)}, which are in no list: {answer} (in {scenes[best].name}).")
    return path
