"""Compare the LVIS figures of finished runs with those of the `lvis` package, from the same detections.

    python benchmarks/lvis_figures.py runs/lvis2k

Prints one row for boxes and, if the model has masks, one for masks: AP, AP of rare, common and frequent names by ezsd
(metrics.json) and by the package. It needs `pip install lvis`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ezsd.recipe import load_run_recipe
from ezsd.run_folder import RunFolder
from ezsd.run_metrics import EvaluateMetrics, LvisMetrics, read_metrics
from ezsd.utils.files import read_json

KINDS = {"bbox": "lvis", "segm": "lvis_masks"}
KEYS = {"ap": "AP", "ap_r": "APr", "ap_c": "APc", "ap_f": "APf"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with a finished stage evaluate on LVIS data")
    arguments = parser.parse_args()
    print("| run | kind | by | " + " | ".join(KEYS.values()) + " |")
    print("| --- | --- | --- |" + " --- |" * len(KEYS))
    for folder in arguments.runs:
        run = RunFolder(folder)
        metrics = read_metrics(run.metrics("evaluate"), EvaluateMetrics)
        val = load_run_recipe(run.recipe).data.val
        if val.limit is not None:
            parser.exit(2, f"{folder}: data.val.limit is set, but the package evaluates the whole annotation file.\n")
        for kind, key in KINDS.items():
            ours: LvisMetrics | None = getattr(metrics, key)
            if ours is None:
                continue
            theirs = official_figures(val.annotations, read_json(run.detections), kind)
            for name, found in (("ezsd", ours), ("lvis", theirs)):
                cells = [f"{-1 if value is None else value:.4f}" for value in (getattr(found, each) for each in KEYS)]
                print(f"| {folder.name} | {kind} | {name} | " + " | ".join(cells) + " |")


def official_figures(annotations: Path, detections: list[dict[str, object]], kind: str) -> LvisMetrics:
    """Return the figures of the `lvis` package.

    Args:
        annotations: The annotation file.
        detections: COCO results with the category ids of the file.
        kind: "bbox" or "segm".
    """
    np.float = float  # type: ignore[attr-defined]  # lvis 0.5.3 uses np.float, which numpy removed
    from lvis import LVIS, LVISEval

    wanted = {key: value for key, value in (("bbox", "bbox"), ("segm", "segmentation"))}[kind]
    keys = ("image_id", "category_id", "score", wanted)
    evaluation = LVISEval(LVIS(str(annotations)), [{key: entry[key] for key in keys} for entry in detections], kind)
    evaluation.run()
    found = {key: 100 * evaluation.results[name] for key, name in KEYS.items()}
    return LvisMetrics(**{key: None if value < 0 else value for key, value in found.items()})


if __name__ == "__main__":
    main()
