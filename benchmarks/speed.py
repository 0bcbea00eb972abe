"""Compare the speed with a plain closed-set detector: a training step, and inference with up to 10,000 names.

    python benchmarks/speed.py recipes/coco2k.yaml --part training
    python benchmarks/speed.py recipes/coco2k.yaml --part inference --transformers

The plain detector is that of closed_set.py: it has the same backbone, FPN, RPN, box-head layers, input and proposals,
but classifies 48 fixed categories with a linear layer and regresses boxes for each. All are timed alternately in one
process on random images; compare the ratio of the medians. With one thread (OMP_NUM_THREADS=1) they are CPU times. The
precision is that of the training (`--set train.precision=fp32`). Inference also has the exported model (ONNX, always
fp32), and detectors of `transformers` with random weights (fp32), if asked for. With --profile, only the operators that
take most of the time are printed: of the training step as in the recipe, and of inference with each number of names.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from closed_set import plain_detector
from ezsd.deploy.onnx_export import export_onnx
from ezsd.detector.rcnn import Rcnn, build_detector
from ezsd.detector.roi_heads import Target
from ezsd.inference.names_file import text_input
from ezsd.inference.onnx_detector import network_input
from ezsd.recipe import Recipe, load_recipe
from ezsd.utils.batch_norm import fold_batch_norms
from ezsd.utils.device import autocast
from ezsd.utils.memory import keep_freed_memory
from tables import Row, add_json_option, clock_of_computation, median_seconds, operators, show
from transformer_models import grounding_dino_tiny, owl_vit_base
from untrained_model import unit, write_untrained_model

CLOSED_SET = 48


@dataclass(frozen=True)
class Setup:
    """What all measurements have in common."""

    dim: int
    device: str
    batch: int
    rounds: int
    profile: bool = False


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


def training(recipe: Recipe, setup: Setup) -> list[Row]:
    """Measure a training step with several numbers of distilled regions."""
    dim, device, precision = setup.dim, setup.device, recipe.train.precision
    ours, plain = detectors(recipe, setup)
    base = unit(CLOSED_SET, dim).to(device)

    def on_device(distilled: int) -> tuple[list[Tensor], list[Target]]:
        pixels, targets = images(recipe, setup.batch, dim, distilled)
        moved = [{key: value.to(device) for key, value in target.items()} for target in targets]
        return [image.to(device) for image in pixels], moved

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
    if setup.profile:
        return operators(steps[f"ours, {len(distilled[0][1][0]['distill_boxes'])} regions distilled"])
    return rows("training step", setup.batch, median_seconds(steps, setup.rounds, clock_of_computation()))


def detectors(recipe: Recipe, setup: Setup) -> tuple[Rcnn, GeneralizedRCNN]:
    """Return our detector and the plain one, with random weights."""
    ours = build_detector(recipe.detector, setup.dim, masks=False, pretrained=False)
    plain = plain_detector(recipe.detector, CLOSED_SET, pretrained=False)
    return ours.to(setup.device), plain.to(setup.device)


@torch.no_grad()
def spread_logits(plain: GeneralizedRCNN, pixels: list[Tensor], wanted: float) -> None:
    """Scale the random logits of the plain detector to a standard deviation.

    Otherwise all categories of all regions have about the same score and pass the threshold, unlike after training, and
    NMS takes a fifth of the time.
    """
    found: list[Tensor] = []
    classes = plain.roi_heads.box_predictor.classes
    hook = classes.register_forward_hook(lambda *parts: found.append(parts[-1].float()))
    plain(pixels)
    hook.remove()
    classes.weight.mul_(wanted / found[0].std())


def inference(recipe: Recipe, setup: Setup, batch: int, names: Sequence[int], transformers: bool) -> list[Row]:
    """Measure one batch in every way."""
    ours, plain = (model.eval() for model in detectors(recipe, setup))
    fold_batch_norms(ours.backbone.body, torch.rand(1, 3, 64, 96, device=setup.device))  # as load_model does
    device, precision = setup.device, recipe.train.precision
    pixels = [image.to(device) for image in images(recipe, batch, setup.dim, 0)[0]]

    def plain_inference() -> None:
        with torch.inference_mode(), autocast(device, precision):
            plain(pixels)

    spread_logits(plain, pixels, 100 / setup.dim**0.5)  # as those of ours: 100 times cosines of random vectors

    def our_inference(text: Tensor) -> Callable[[], Any]:
        return lambda: ours.detect(pixels, text)

    ours.precision = precision
    works: dict[str, Callable[[], Any]] = {"plain": plain_inference}
    works |= {f"ours, {count:,} names": our_inference(unit(count, setup.dim).to(device)) for count in names}
    if setup.profile:
        return [{"what": name, "batch": batch, **row} for name, work in works.items() for row in operators(work)]
    if not torch.cuda.is_available():
        works |= exported(recipe, setup, pixels, names)
    if transformers:
        batched = torch.stack(pixels).float() / 255
        works |= {f"OWL-ViT-base, {count:,} names": owl_vit_base(batched, count) for count in names}
        works[f"Grounding-DINO-tiny, {names[0]} names"] = grounding_dino_tiny(batched, names[0])
    return rows("inference", batch, median_seconds(works, setup.rounds, clock_of_computation()))


def exported(
    recipe: Recipe, setup: Setup, pixels: Sequence[Tensor], names: Sequence[int]
) -> dict[str, Callable[[], Any]]:
    """Return functions that detect with the exported detector."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_untrained_model(Path(folder) / "model", recipe.detector, 1, setup.dim)
        path = Path(folder) / "model.onnx"
        export_onnx(model, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    arrays = [image.permute(1, 2, 0).numpy() for image in pixels]
    inputs = [network_input(arrays, text_input([*unit(count, setup.dim)[:, None].numpy()])) for count in names]
    return {
        f"ours, ONNX, {count:,} names": lambda given=given: session.run(None, given)
        for count, given in zip(names, inputs, strict=True)
    }


def rows(title: str, batch: int, seconds: dict[str, float]) -> list[Row]:
    return [
        {"work": title, "batch": batch, "detector": name, "ms": 1000 * value, "images/s": batch / value,
         "x plain": f"{value / seconds['plain']:.2f}"}
        for name, value in seconds.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--dim", type=int, default=384, help="size of the text embeddings")
    parser.add_argument("--batch", type=int, default=2, help="images of a training step")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="images of an inference")
    parser.add_argument("--names", type=int, nargs="+", default=[65, 1203, 10_000])
    parser.add_argument("--part", choices=["training", "inference"], required=True)
    parser.add_argument("--transformers", action="store_true", help="also detectors of the package transformers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    add_json_option(parser)
    given = parser.parse_args()
    keep_freed_memory()  # as the command line does
    recipe = load_recipe(given.recipe, given.changes)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    setup = Setup(given.dim, device, given.batch, given.rounds, given.profile)
    torch.manual_seed(0)
    print(f"{recipe.detector.backbone}, {recipe.detector.image_size}, {recipe.train.precision}, {device}\n")
    if given.part == "training":
        show(training(recipe, setup), given.json)
    else:
        found = [inference(recipe, setup, batch, given.names, given.transformers) for batch in given.batches]
        show([row for part in found for row in part], given.json)


if __name__ == "__main__":
    main()
