"""The text of a recipe for the user's own images: settings that suit their size and number, each with its reason."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ezsd.data.categories import CategorySplit

PROMPT = "a photo of a {name}"
_BATCH, _CROPS = 4, 64  # images and crops a step
_STEPS, _FEWEST_EPOCHS = 2000, 12  # of training: whichever is longer
_ADAPT_STEPS, _MOST_ADAPT_EPOCHS = 300, 12
_SMALLEST, _LONG = 256, 640  # pixels: what the detector sees of an image
_GRID_LONG, _GRID_STRIDE = 384, 16
_TINY = 0.04  # of the image's long side: boxes too small to tell what is in them


@dataclass(frozen=True)
class OwnData:
    """What is known of the user's images.

    Attributes:
        images: their folder.
        annotations: files of "train" and "val".
        counts: how many "train" and "val" have.
        sizes: width and height of the images, pixels.
        boxes: by name of category.
    """

    images: Path
    annotations: Mapping[str, Path]
    counts: Mapping[str, int]
    sizes: Sequence[tuple[int, int]]
    boxes: Mapping[str, int]


def recipe_text(data: OwnData, split: CategorySplit, teacher: str, out: Path) -> str:
    """Write a recipe as a commented YAML text.

    Args:
        data: what it is for.
        split: base and novel names.
        teacher: as in a recipe.
        out: where the text will lie, for the commands in it.
    """
    precision, why = _precision()
    short, long = _seen(data.sizes)
    return f"""\
# Finds the novel names without boxes of them.
#   ezsd validate {out}   every problem of recipe, boxes and images, at once
#   ezsd plan {out}       what it takes: time on this machine, disk, memory
#   ezsd run {out} --out runs/{out.stem}
# gzsd AP50: not measured.
# docs/recipes.md lists all keys; those left out have their defaults.
split:
  base:  # boxes of these are learned
{_names(split.base, data.boxes)}
  novel:  # these are names only; boxes of them in the val images are used for the figures alone
{_names(split.novel, {})}
teacher: {_quoted(teacher)}  # offline knows everyday things; open_clip:ViT-B-32/openai knows far more, downloaded once
prompt: {_quoted(PROMPT)}
seed: 0
data:
{_parts(data)}
  skip_bad: false  # true leaves bad images and boxes out instead of stopping
{_adapt(data, split, teacher)}
  precision: {precision}  # {why}
{_propose(short, long, teacher)}
  precision: {precision}
detector:
  backbone: tf_efficientnet_lite0  # small enough for a CPU; resnet50 (downloaded once) with a GPU
  image_size: [{short}, {long}]  # up to [800, 1333]: larger finds smaller things, time grows with the area
  fpn_channels: 96  # this and the five below: slim, for a CPU; left out, they are as published
  rpn_proposals: 256
  head_convs: 1
  head_channels: 96
  head_features: 512
  rois_per_image: 48
  anchor_sides: [16, 32, 64, 128, 256]
  masks: auto  # learned when the annotations have them
{_train(data.counts["train"])}
  precision: {precision}
"""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # any text in JSON's quotes is YAML


def _names(names: Sequence[str], boxes: Mapping[str, int]) -> str:
    return "\n".join(f"    - {_quoted(name)}" + (f"  # {boxes[name]} boxes" if name in boxes else "") for name in names)


def _parts(data: OwnData) -> str:
    images = _quoted(str(data.images.absolute()))
    return "\n".join(
        f"  {name}:  # {data.counts[name]} images\n    images: {images}\n"
        f"    annotations: {_quoted(str(path.absolute()))}"
        for name, path in data.annotations.items()
    )


def _adapt(data: OwnData, split: CategorySplit, teacher: str) -> str:
    boxes = sum(data.boxes[name] for name in split.base) * data.counts["train"] / max(1, len(data.sizes))
    epochs = min(_MOST_ADAPT_EPOCHS, max(2, round(_ADAPT_STEPS * _CROPS / max(boxes, 1))))
    long = statistics.median(max(size) for size in data.sizes)
    towers, lr = ("[image]", "1.0e-3") if teacher == "offline" else ("[image, text]", "1.0e-4")
    return f"""\
adapt:  # the teacher gets used to your images: norm layers alone, on crops of base boxes
  towers: {towers}
  epochs: {epochs}
  batch_size: {_CROPS}
  lr: {lr}
  balance: 1.0  # frequent base names do not crowd out the others
  min_side: {max(8, round(_TINY * long))}  # smaller boxes (pixels of the image) show too little"""


def _propose(short: int, long: int, teacher: str) -> str:
    dense_sides = "[512, 960]" if teacher == "offline" else "[640, 1280]"
    return f"""\
propose:  # where novel objects may be, and what the teacher sees there
  ranking: novel  # boxes that look like one of the novel names come first
  image_size: [{round(_GRID_LONG * short / long)}, {_GRID_LONG}]  # the grid's own scale, whatever the image's pixels
  stride: {_GRID_STRIDE}
  sides: [16, 32, 64, 128, 224]
  dense_sides: {dense_sides}  # long sides at which the teacher looks; a larger one finds smaller things
  nms: 0.5
  base_filter: false  # a novel object often looks like a base name; what is labelled overrules it
  keep: 60  # boxes an image
  crop_rank: 0.0  # the dense look alone ranks: as good here, and half the price"""


def _train(images: int) -> str:
    epochs = _rounded(max(_FEWEST_EPOCHS, _STEPS * _BATCH / images))
    steps = math.ceil(images * epochs / _BATCH)
    return f"""\
train:
  epochs: {epochs}  # passes over {images} images: {steps:,} steps; raise it as long as the figures rise
  batch_size: {_BATCH}  # lower it when memory is short
  optimizer: adamw
  lr: 5.0e-4
  backbone_lr: 0.2
  schedule: cosine
  warmup_steps: 100
  distillation_weight: 0.2  # 1 as published, for far longer schedules
  proposals_per_image: 48
  ignore_top: 20  # the best proposals are not taught as background: novel objects may be there
  checkpoint_steps: 200"""


def _seen(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Short and long side at which the detector sees a usual image; it is not enlarged beyond ``_SMALLEST``."""
    short, long = (statistics.median(side(size) for size in sizes) for side in (min, max))
    shrink = min(1.0, _LONG / long)
    small = max(_SMALLEST, round(short * shrink))
    return small, max(small, round(long * shrink))


def _rounded(epochs: float) -> int:
    """Two digits: 333 -> 330."""
    digits = max(0, len(str(round(epochs))) - 2)
    return round(round(epochs), -digits)


def _precision() -> tuple[str, str]:
    """The quicker precision of this machine, and why."""
    if torch.cuda.is_available():
        known = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        known = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return ("bf16", "this machine computes it quickly; fp32 elsewhere") if known else (
        "fp32", "bf16 is quicker on recent GPUs and CPUs"
    )  # fmt: skip
