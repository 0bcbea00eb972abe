"""Compare novel recall and cost of proposals on val images, by where the boxes come from and how they are ranked.

    python benchmarks/proposals.py runs/coco2k --images 40

The recipe and the teacher are those of a run folder with a finished stage adapt. Recall is the fraction of novel boxes
matched by one of the best 10, 48, 100 or 300 proposals (IoU 0.5):

- random: random boxes of the anchor grid.
- recipe: as the recipe says.
- grid: the anchor grid, ranked with the dense reading.
- grid, objectness: the same, with the recipe's power of the objectness in the ranking.
- regions: the regions of the base RPN, ranked with the dense reading and the objectness.
- rpn: the regions of the base RPN, ranked by objectness alone.
- exhaustive: the anchor grid, every box cropped.

The rows with an RPN are included if stage propose of the run trained one. "dense + crops" also encodes the boxes that
would be stored.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ezsd.data.categories import load_split
from ezsd.data.formats.coco import load_images
from ezsd.data.samples import images_with, with_names
from ezsd.pipeline.choices import with_choices
from ezsd.proposals.base_rpn import load_base_rpn
from ezsd.proposals.proposer import Proposer
from ezsd.proposals.recall import measure_proposals, random_recall
from ezsd.recipe import ProposeConfig, load_run_recipe
from ezsd.run_folder import RunFolder
from ezsd.run_metrics import ProposeMetrics, read_metrics_if_exist
from ezsd.teacher import load_teacher, text_embeddings
from ezsd.teacher.base import with_dense_reading
from ezsd.utils.log import show_log

RECALL_AT = (10, 48, 100, 300)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, help="use only the first N val images with a novel box")
    parser.add_argument("--skip-exhaustive", action="store_true")
    arguments = parser.parse_args()
    show_log()
    run = RunFolder(arguments.run)
    recipe = load_run_recipe(run.recipe)
    split = load_split(recipe.split, recipe.data.train.annotations)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = load_teacher(recipe.teacher, device, run.norms if recipe.adapt.enabled else None)
    val = load_images(recipe.data.val, split.names, recipe.data.skip_bad)
    images = images_with(val, split.novel)[: arguments.images]
    val = replace(val, images=images)
    config = with_choices(recipe.propose, read_metrics_if_exist(run.metrics("propose"), ProposeMetrics))
    teacher = with_dense_reading(teacher, config.dense_reading)
    dense = config.model_copy(update={"scoring": "dense", "crop_rank": 0.0, "objectness": 0.0})
    exhaustive = config.model_copy(update={"scoring": "exhaustive"})
    rpn = None
    if run.targets.rpn.exists():
        rpn = load_base_rpn(run.targets.path, config.shortlist, device)
    text = text_embeddings(teacher, split.names, recipe.prompt)
    proposer = Proposer(teacher, text, len(split.base), dense, device, rpn)

    def measure(config: ProposeConfig) -> dict[str, float | None]:
        return measure_proposals(replace(proposer, config=config), val, split, RECALL_AT)

    def store() -> dict[str, float | None]:
        for _ in replace(proposer, rpn=None).propose([with_names(image, val.names, ()) for image in images]):
            pass
        return {}

    print(f"{len(images)} images, {recipe.propose.ranking}, {recipe.propose.precision}, {device}")
    works: dict[str, Callable[[], dict[str, float | None]]] = {
        "random": lambda: random_recall(val, split, dense, RECALL_AT),
        "recipe": lambda: measure(config),
        "grid": lambda: measure(dense),
        f"dense + crops of {recipe.propose.keep}": store,
    }
    if rpn is not None:
        ranked = {"objectness": config.objectness or 0.5, "crop_rank": 0.0}
        works["grid, objectness"] = lambda: measure(dense.model_copy(update=ranked))
        works["regions"] = lambda: measure(dense.model_copy(update={"scoring": "regions", **ranked}))
        works["rpn"] = lambda: measure(config.model_copy(update={"scoring": "rpn"}))
    if not arguments.skip_exhaustive:
        works["exhaustive"] = lambda: measure(exhaustive)
    for name, work in works.items():
        began = time.perf_counter()
        found = work()
        seconds = (time.perf_counter() - began) / len(images)
        shown = "  ".join(f"@{key.rpartition('_')[2]} {value:.3f}" for key, value in found.items() if value is not None)
        print(f"{name:22s} {shown:46s} {seconds:8.3f} s per image")


if __name__ == "__main__":
    main()
