"""Compare the speed with a plain closed-set detector: a training step, and inference with two vocabulary sizes.

    python benchmarks/speed.py recipes/coco2k.yaml

The plain detector is that of closed_set.py: it has the same backbone, FPN, RPN, box-head layers, input and proposals,
but classifies 48 fixed categories with a linear layer and regresses boxes for each. Both are timed alternately in one
process on random images; compare the ratio of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from closed_set import plain_detector
from ezsd.detector.rcnn import build_detector
from ezsd.detector.roi_heads import Target
from ezsd.recipe import Recipe, load_recipe
from ezsd.utils.device import autocast

CLOSED_SET = 48


def unit(count: int, dim: int) -> Tensor:
    return F.normalize(torch.randn(count, dim), dim=1)


def images(recipe: Recipe, count: int, dim: int, distilled: int) -> tuple[list[Tensor], list[Target]]:
    """Return random images of the recipe's input size, each with nine boxes, about the average of COCO."""
    height, width = recipe.detector.image_size

    def boxes(number: int) -> Tensor:
        corner = torch.rand(number, 2) * torch.tensor([width, height]) * 0.8
        return torch.cat([corner, corner + 8 + torch.rand(number, 2) * torch.tensor([width, height]) * 0.2], dim=1)

    target = {"crowd_boxes": torch.zeros(0, 4), "ignored_boxes": torch.zeros(0, 4)}
    targets = [
        {
            **target,
            "boxes": boxes(9),
            "labels": torch.randint(1, CLOSED_SET + 1, (9,)),
            "distill_boxes": boxes(distilled),
            "distill_embeddings": unit(distilled, dim),
            "distill_weights": torch.ones(distilled),
        }
        for _ in range(count)
    ]
    return [torch.randint(0, 255, (3, height, width), dtype=torch.uint8) for _ in range(count)], targets


def median_seconds(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Run all functions alternately; return the median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def training_step(
    model: nn.Module, losses: Callable[[], dict[str, Tensor]], device: str, precision: str
) -> Callable[[], None]:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)

    def step() -> None:
        with autocast(device, precision):
            values = losses()
        torch.stack(list(values.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--dim", type=int, default=384, help="size of the text embeddings")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--set", action="append", default=[], dest="changes")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.changes)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    ours = build_detector(recipe.detector, arguments.dim, masks=False, pretrained=False).to(device)
    plain = plain_detector(recipe.detector, CLOSED_SET, pretrained=False).to(device)
    precision = recipe.train.precision

    def on_device(distilled: int) -> tuple[list[Tensor], list[Target]]:
        pixels, targets = images(recipe, arguments.batch, arguments.dim, distilled)
        moved = [{key: value.to(device) for key, value in target.items()} for target in targets]
        return [image.to(device) for image in pixels], moved

    base = unit(CLOSED_SET, arguments.dim).to(device)
    pixels, targets = on_device(0)
    distilled = [on_device(count) for count in (recipe.train.proposals_per_image, 200)]
    ours.train(), plain.train()
    steps = {
        "plain": training_step(plain, lambda: plain(pixels, targets), device, precision),
        "ours, no distillation": training_step(ours, lambda: ours(pixels, targets, base), device, precision),
        **{
            f"ours, {len(batch[1][0]['distill_boxes'])} regions distilled": training_step(
                ours, lambda batch=batch: ours(*batch, base), device, precision
            )
            for batch in distilled
        },
    }
    print(f"{recipe.detector.backbone}, {recipe.detector.image_size}, {precision}, {device}, batch {arguments.batch}")
    report("training step", median_seconds(steps, arguments.rounds))
    ours.eval(), plain.eval()

    def plain_inference() -> None:
        with torch.inference_mode(), autocast(device, precision):
            plain(pixels)

    def inference(text: Tensor) -> Callable[[], None]:
        def detect() -> None:
            with autocast(device, precision):
                ours.detect(pixels, text)

        return detect

    works = {f"ours, {count} names": inference(unit(count, arguments.dim).to(device)) for count in (65, 1203)}
    report("inference", median_seconds({"plain": plain_inference, **works}, arguments.rounds))


def report(title: str, seconds: dict[str, float]) -> None:
    for name, value in seconds.items():
        print(f"{title:14s} {name:28s} {1000 * value:8.1f} ms   {value / seconds['plain']:.2f} x plain")


if __name__ == "__main__":
    main()
