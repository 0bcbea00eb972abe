"""Cost and novel recall of dense scoring, against exhaustive scoring of crops as published.

    python benchmarks/mining.py runs/coco2k --images 60
    python benchmarks/mining.py recipes/coco2k.yaml --images 4 --random-clip ViT-B-32

Takes a run folder with a finished stage adapt, or a recipe, whose teacher is then not adapted. Several ways find
proposals in the same val images with a novel box, in turn, image after image:

- grid + crops: dense scoring of the boxes of the anchor grid; the boxes that are kept are also cropped and stored.
- regions + crops: the same with the regions of the base RPN, as `ezsd init` writes it, if the run folder has an RPN.
- both with the smallest of propose.dense_sides only.
- exhaustive, as published: every box of the anchor grid is cropped to a square with Pillow, resized, and encoded in
  batches of 100.

FLOPs are those of the teacher, two for a multiplication and an addition, and are counted in the first image. With
--random-clip the teacher is a model of open_clip with random weights, for speed only: there is no recall. With
--profile, only the operators that take most of the time of stage propose in one image are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ezsd.data.categories import load_split
from ezsd.data.formats.coco import load_images
from ezsd.data.samples import AnnotatedImage, ImageSet, images_with, read_image, with_names
from ezsd.pipeline.choices import with_choices
from ezsd.proposals.base_rpn import load_base_rpn
from ezsd.proposals.candidates import select
from ezsd.proposals.proposer import Proposer
from ezsd.proposals.recall import RECALL_AT, novel_recall, recall_config
from ezsd.recipe import Recipe, load_recipe, load_run_recipe
from ezsd.run_folder import RunFolder, TargetsFolder
from ezsd.run_metrics import ProposeMetrics, read_metrics_if_exist
from ezsd.teacher import Teacher, load_teacher, text_embeddings
from ezsd.teacher.base import with_dense_reading
from ezsd.teacher.clip import ClipTeacher
from ezsd.utils.device import autocast
from ezsd.utils.memory import keep_freed_memory
from tables import Row, add_json_option, clock_of_computation, operators, show

PUBLISHED_BATCH = 100
Way = Callable[[AnnotatedImage], Tensor]


@dataclass
class Cost:
    """What a way found and what it took."""

    seconds: float = 0.0
    boxes: dict[int, Tensor] = field(default_factory=dict)


def pillow_crop(image: Image.Image, box: Sequence[float], size: int) -> np.ndarray[Any, Any]:
    """Crop a box, padded to a square around its center (black outside the image), and resize it: [size, size, 3]."""
    left, top, right, bottom = box
    half = max(right - left, bottom - top, 1) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    square = image.crop((round(x - half), round(y - half), round(x + half), round(y + half)))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


def pillow_batches(image: Image.Image, boxes: Tensor, size: int) -> Iterator[Tensor]:
    """Yield the crops of boxes as batches [N, 3, size, size], values 0..1."""
    for part in boxes.split(PUBLISHED_BATCH):
        crops = np.stack([pillow_crop(image, box, size) for box in part.tolist()])
        yield torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def published(proposer: Proposer, image: AnnotatedImage) -> Tensor:
    """Return the best boxes [N, 4] of the grid, every one of them cropped as published."""
    teacher, config, device = proposer.teacher, proposer.config, proposer.device
    pixels = read_image(image)
    boxes, factor = proposer.candidate_boxes(image, pixels, image.boxes)
    embeddings = []
    for crops in pillow_batches(Image.fromarray(pixels.permute(1, 2, 0).numpy()), boxes, teacher.input_size):
        with autocast(device, config.precision):
            embeddings.append(teacher.encode_crops(crops.to(device)).float().cpu())
    probabilities = (teacher.logit_scale * torch.cat(embeddings) @ proposer.text.T).softmax(1)
    return boxes[select(boxes, probabilities, factor, proposer.base_names, config)]


def proposed(proposer: Proposer, image: AnnotatedImage) -> Tensor:
    """Return the boxes [N, 4] that stage propose keeps."""
    (regions,) = proposer.propose([image])
    return regions.boxes[~regions.is_base_box]


def flops(work: Callable[[], Any]) -> int:
    """Return the FLOPs of a function."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


@torch.no_grad()
def teacher_flops(proposer: Proposer, image: AnnotatedImage) -> tuple[int, int, int]:
    """Return the FLOPs of one crop, and of the dense pass over an image, and the number of boxes of its grid."""
    teacher = proposer.teacher
    pixels = read_image(image).to(proposer.device).float() / 255
    boxes, _ = proposer.candidate_boxes(image, pixels, image.boxes)
    crop = torch.zeros(1, 3, teacher.input_size, teacher.input_size, device=proposer.device)
    dense = flops(lambda: teacher.dense_embeddings(pixels, boxes.to(proposer.device), proposer.config.dense_sides))
    return flops(lambda: teacher.encode_crops(crop)), dense, len(boxes)


def random_clip(architecture: str) -> Teacher:
    """Return an open_clip model with random weights."""
    model = open_clip.create_model(architecture, pretrained=None)
    return ClipTeacher(f"{architecture} (random weights)", model, open_clip.get_tokenizer(architecture), architecture)


def benchmark(
    proposers: Sequence[Proposer], val: ImageSet, names: tuple[Sequence[str], Sequence[str]], recall: bool
) -> list[Row]:
    """Mine all images in all ways; return one row for each way.

    Args:
        proposers: The proposer with the anchor grid, and others.
        val: Images with boxes of all names; all of them are used.
        names: The base and the novel names.
        recall: Whether the novel recall is measured.
    """
    base, novel = names
    images = [with_names(image, val.names, base) for image in val]
    grid = proposers[0]
    every = replace(
        grid, config=recall_config(grid.config).model_copy(update={"scoring": "exhaustive", "objectness": 0.0})
    )
    dense = {_title(own): own for proposer in proposers for own in (proposer, with_smallest_side(proposer))}
    ways: dict[str, Way] = {name: partial(proposed, own) for name, own in dense.items()}
    ways["exhaustive, as published"] = partial(published, every)
    costs, clock = {name: Cost() for name in ways}, clock_of_computation()
    for image in images:
        for name, way in ways.items():
            began = clock()
            costs[name].boxes[image.image_id] = way(image)
            costs[name].seconds += clock() - began
    crop, _, boxes = teacher_flops(grid, images[0])
    used = dict.fromkeys(ways, crop * boxes)
    for name, own in dense.items():
        used[name] = teacher_flops(own, images[0])[1] + crop * own.config.keep
        if recall:  # of 300 boxes, not only those kept
            ranked = replace(own, config=recall_config(own.config)).rank(images)
            costs[name].boxes = {image.image_id: found for image, found in zip(images, ranked, strict=True)}
    slowest = list(costs.values())[-1].seconds
    return [
        {
            "way": name,
            "images/s": len(images) / cost.seconds,
            "s an image": cost.seconds / len(images),
            "times faster": slowest / cost.seconds,
            "teacher GFLOPs an image": used[name] / 1e9,
            **_recall(cost, val, novel, recall),
        }
        for name, cost in costs.items()
    ]


def with_smallest_side(proposer: Proposer) -> Proposer:
    """Return the proposer with one dense pass, the smallest."""
    side = min(proposer.config.dense_sides)
    return replace(proposer, config=proposer.config.model_copy(update={"dense_sides": (side,)}))


def _title(proposer: Proposer) -> str:
    config = proposer.config
    source = "grid" if config.scoring == "dense" else "regions"
    return f"{source} + crops of {config.keep}, {' + '.join(map(str, config.dense_sides))} px"


def _recall(cost: Cost, val: ImageSet, novel: Sequence[str], wanted: bool) -> dict[str, float | None]:
    found = novel_recall(cost.boxes, val, novel) if wanted else {f"_{count}": None for count in RECALL_AT}
    return {f"novel recall@{key.rpartition('_')[2]}": value for key, value in found.items()}


def read(place: str) -> tuple[Recipe, RunFolder | None]:
    """Return the recipe of a run folder or a file, and the run folder."""
    run = RunFolder(Path(place)) if Path(place).is_dir() else None
    return (load_recipe(place) if run is None else load_run_recipe(run.recipe)), run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run folder, or a recipe")
    parser.add_argument("--images", type=int, default=60, help="use the first N val images with a novel box")
    parser.add_argument("--random-clip", metavar="ARCH", help="an architecture of open_clip, with random weights")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    add_json_option(parser)
    given = parser.parse_args()
    keep_freed_memory()  # as the command line does
    recipe, run = read(given.run)
    split = load_split(recipe.split, recipe.data.train.annotations)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    norms = run.norms if run is not None and recipe.adapt.enabled else None
    config = recipe.propose
    if run is not None:
        config = with_choices(config, read_metrics_if_exist(run.metrics("propose"), ProposeMetrics))
    grid = config.model_copy(update={"scoring": "dense", "objectness": 0.0})  # without an RPN, as published
    teacher = random_clip(given.random_clip).to(device) if given.random_clip else None
    if teacher is None:
        teacher = with_dense_reading(load_teacher(recipe.teacher, device, norms), config.dense_reading)
    text = text_embeddings(teacher, split.names, recipe.prompt)
    val = load_images(recipe.data.val, split.names, recipe.data.skip_bad)
    val = replace(val, images=images_with(val, split.novel)[: given.images])
    adapted = "adapted" if norms is not None and given.random_clip is None else "not adapted"
    print(f"{len(val)} images, {teacher.name} ({adapted}), {config.precision}, {device}\n")
    proposers = [Proposer(teacher, text, len(split.base), grid, device)]
    if run is not None and config.scoring == "regions" and TargetsFolder(run.of("propose")).rpn.exists():
        rpn = load_base_rpn(run.of("propose"), config.shortlist, device)
        proposers.append(Proposer(teacher, text, len(split.base), config, device, rpn))
    if given.profile:
        show(operators(partial(proposed, proposers[-1], with_names(val[0], val.names, split.base))), given.json)
        return
    show(benchmark(proposers, val, (split.base, split.novel), recall=given.random_clip is None), given.json)


if __name__ == "__main__":
    main()
