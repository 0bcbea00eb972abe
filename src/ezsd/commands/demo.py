"""The demo: EZSD and a baseline without its three ideas on the pocket data set, with a comparison of both.

The two runs execute at the same time, each on half of the cores, because images this small use few threads. The
baseline is shorter; EZSD then takes its cores.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import supervision as sv
import torch
from rich.console import Console

from ezsd.data.categories import load_split
from ezsd.errors import ArtifactError
from ezsd.inference.detector import Detector
from ezsd.inference.drawing import draw
from ezsd.pipeline.run import run_recipe
from ezsd.pocket.dataset import SPLIT, make_pocket
from ezsd.pocket.scenes import PlacedObject, make_scene
from ezsd.recipe import load_recipe
from ezsd.report.compare import as_text, compare
from ezsd.report.page import write_report
from ezsd.run_folder import RunFolder, Stage
from ezsd.utils.files import written_whole

logger = logging.getLogger(__name__)

IMAGES, FAST_IMAGES = 900, 350
FAST = (
    "adapt.epochs=4",
    "propose.rpn_epochs=3",
    "train.epochs=6",
    "train.novel_negatives=false",  # better for few steps
)
# Names that are in no split, and their pictograms; in the training scenes they are unlabeled distractors.
UNHEARD = {
    "cookie": ("1F36A",),
    "dolphin": ("1F42C",),
    "robot": ("1F916",),
    "hamburger": ("1F354",),
    "watermelon": ("1F349",),
    "helicopter": ("1F681",),
}
_STEPS: tuple[Stage, ...] = ("propose", "train", "evaluate")  # of the run: before each it takes free cores
_UNHEARD_SCENES = 12
_UNHEARD_SEED = 99
_THRESHOLD = 0.2


def run_demo(out: Path, fast: bool = False, overwrite: bool = False) -> dict[str, Path]:
    """Build the pocket data set, run EZSD and its baseline on it, print their figures, and write a report and an image.

    Args:
        out: The output folder: pocket_N/ (the data set), ezsd/ and baseline/ (run folders) and unheard.jpg.
        fast: Use fewer scenes and shorter trainings; this checks that everything works, but the results are poor.
        overwrite: Replace results of other settings or versions in ``out``.

    Returns:
        The paths ``report`` and ``image``.

    Raises:
        MissingExtraError: The extra ``pocket`` is not installed.
        ArtifactError: ``out`` contains runs with other settings, or cannot be written.
    """
    images = FAST_IMAGES if fast else IMAGES
    data = make_pocket(out / f"pocket_{images}", images)
    changes = [
        f"data.{part}.{key}={data[file]}"
        for part in ("train", "val")
        for key, file in (("images", "images"), ("annotations", part))
    ]
    changes += FAST if fast else ()
    ours, baseline = out / "ezsd", out / "baseline"
    with _baseline_in_parallel(SPLIT, baseline, changes, overwrite) as take_free_cores:
        for stage in _STEPS:
            take_free_cores()
            run_recipe(load_recipe(SPLIT, changes), ours, stage, overwrite)
    console = Console(highlight=False)
    console.print(as_text(compare([ours, baseline]), console.width))
    report = write_report(ours, baseline)
    image = _unheard(RunFolder(ours).model, out / "unheard.jpg")
    return {"report": report, "image": image}


@contextmanager
def _baseline_in_parallel(
    recipe: str, folder: Path, changes: Sequence[str], overwrite: bool
) -> Iterator[Callable[[], None]]:
    """Run the baseline in another process while the body of ``with`` runs, each on half of the cores; wait for it.

    Yields:
        A function that gives this process all cores if the baseline has finished.

    Raises:
        ArtifactError: The other run failed.
    """
    log, threads = folder.with_suffix(".log"), torch.get_num_threads()
    half = max(1, threads // 2)
    command = [sys.executable, "-m", "ezsd", "run", recipe, "--preset", "baseline", "--out", str(folder)]
    command += [word for change in changes for word in ("--set", change)] + ["--overwrite"] * overwrite
    logger.info(f"The baseline (same schedule, without the three ideas) runs in parallel. Its log: {log}")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        other = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT,
                                 env={**os.environ, "OMP_NUM_THREADS": str(half)})  # fmt: skip
    torch.set_num_threads(half)

    def take_free_cores() -> None:
        if other.poll() is not None:
            torch.set_num_threads(threads)

    try:
        yield take_free_cores
        if other.poll() is None:
            logger.info("Waiting for the baseline to finish ...")
        if other.wait():
            raise ArtifactError([f"The baseline failed. The last lines of {log}:", *log.read_text().splitlines()[-3:]])
    finally:
        other.terminate()
        other.wait()
        torch.set_num_threads(threads)


def _unheard(model: Path, image: Path) -> Path:
    """Detect names that are in no split in scenes of them, and draw the scene with the most objects found."""
    scenes = [make_scene(np.random.default_rng([_UNHEARD_SEED, place]), tuple(UNHEARD), pictograms=UNHEARD)
              for place in range(_UNHEARD_SCENES)]  # fmt: skip
    vocabulary = (*load_split(SPLIT).names, *UNHEARD)
    detections = Detector.load(model)([scene for scene, _ in scenes], vocabulary, _THRESHOLD)
    found = [count_found(part, objects) for part, (_, objects) in zip(detections, scenes, strict=True)]
    best = max(range(len(scenes)), key=found.__getitem__)
    with written_whole(image) as temporary:
        draw(scenes[best][0], detections[best]).save(temporary, format="JPEG", quality=92)
    total = sum(len(objects) for _, objects in scenes)
    logger.info(
        f"Names in no split ({', '.join(UNHEARD)}): {sum(found)} of {total} objects found in {len(scenes)} scenes. "
        f"{image} shows the scene with the most objects found."
    )
    return image


def count_found(detections: sv.Detections, objects: Sequence[PlacedObject]) -> int:
    """Count the objects that a detection with their name matches (IoU of at least 0.5)."""
    names = np.asarray(detections["class_name"])
    met = sv.box_iou_batch(sv.mask_to_xyxy(np.stack([each.mask for each in objects])), detections.xyxy) >= 0.5
    return sum(bool((names[overlaps] == each.name).any()) for overlaps, each in zip(met, objects, strict=True))
