"""Measure semantic regression: regress regions near val objects with their own name, no name and another name.

    python benchmarks/guidance.py runs/coco2k

Every object of the val part is jittered into regions that overlap it with IoU 0.4 to 0.9, and the box branch regresses
them. The result does not depend on proposals, on scores or on the frequency of an object. Without semantic regression,
boxes are the same for every name. Each cell is the mean IoU with the object and the fraction of boxes with IoU >= 0.75.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from ezsd.data.formats.coco import load_images
from ezsd.data.samples import ImageSet, read_image
from ezsd.data.transforms import resize_image
from ezsd.detector.model_folder import load_model
from ezsd.detector.rcnn import Rcnn, batch_images
from ezsd.recipe import load_run_recipe
from ezsd.run_folder import RunFolder

NEAR = (0.4, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with a finished stage train")
    parser.add_argument("--regions", type=int, default=20, help="regions per object before filtering by IoU")
    parser.add_argument(
        "--jitter", type=float, default=0.15, help="standard deviation of each side, relative to width and height"
    )
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print("| run | objects | regions | before | own name | no name | another name |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for run in arguments.runs:
        recipe = load_run_recipe(RunFolder(run).recipe)
        model, config, text = load_model(RunFolder(run).model, device)
        images = load_images(recipe.data.val, config.names, recipe.data.skip_bad)
        overlaps: dict[str, list[Tensor]] = defaultdict(list)
        for labels, found in guided(model, images, text, arguments.regions, arguments.jitter):
            for side, chosen in (("base", labels <= len(config.base)), ("novel", labels > len(config.base))):
                overlaps[side].append(found[chosen])
        for side, parts in overlaps.items():
            found = torch.cat(parts)
            cells = [f"{float(ious.mean()):.4f}, {float((ious >= 0.75).float().mean()):.3f}" for ious in found.T]
            print(f"| {run.name} | {side} | {len(found):,} | {' | '.join(cells)} |")


@torch.inference_mode()
def guided(model: Rcnn, images: ImageSet, text: Tensor, count: int, jitter: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each image the labels [N] of the regions and their IoU [N, 4]: before, own name, no name, another."""
    generator, heads = torch.Generator().manual_seed(0), model.roi_heads
    for image in images:
        pixels = read_image(image)
        small = resize_image(pixels, model.image_size).to(text.device)
        scale = torch.tensor([small.shape[-1] / pixels.shape[-1], small.shape[-2] / pixels.shape[-2]])
        objects = image.boxes[~image.crowd] * scale.repeat(2)
        regions, places = regions_near(objects, count, jitter, (small.shape[-2], small.shape[-1]), generator)
        if not len(regions):
            continue
        labels, goals, regions = image.labels[~image.crowd][places], objects[places], regions.to(text.device)
        entries = batch_images([small])
        pooled = heads.box_roi_pool(model.backbone(entries.tensors), [regions], entries.image_sizes)
        features = heads.box_head.to_box_features(heads.box_head.shared(pooled))
        own = text[labels.to(text.device) - 1]
        another = text.roll(len(text) // 2, dims=0)[labels.to(text.device) - 1]
        boxes = [regions]
        for guide in (own, torch.zeros_like(own), another):
            boxes.append(heads.box_coder.decode_single(heads.box_head.deltas(features, guide), regions))
        yield labels, torch.stack([box_iou(found.cpu(), goals).diagonal() for found in boxes], dim=1)


def regions_near(
    objects: Tensor, count: int, jitter: float, size: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return regions [N, 4] near objects [K, 4] (xyxy), and the object index [N] of each; ``size``: height, width."""
    places = torch.arange(len(objects)).repeat_interleave(count)
    sides = (objects[:, 2:] - objects[:, :2])[places].repeat(1, 2)
    moved = objects[places] + jitter * sides * torch.randn(len(places), 4, generator=generator)
    moved = clip_boxes_to_image(moved, size)
    overlap = box_iou(moved, objects[places]).diagonal()
    kept = (overlap > NEAR[0]) & (overlap < NEAR[1])
    return moved[kept], places[kept]


if __name__ == "__main__":
    main()
