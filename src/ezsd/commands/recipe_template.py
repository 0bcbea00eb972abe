"""The text of a recipe for the user's own images: commented settings that suit their size and number."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ezsd.commands.anchors import AnchorChoice, LabeledBoxes, choose_anchors
from ezsd.data.categories import CategorySplit
from ezsd.utils.device import Precision
from ezsd.utils.format import counted, shell_quoted
from ezsd.utils.precision import faster_precision

PROMPT = "a photo of a {name}"
_CROPS = 64  # per step
_STEPS, _FEWEST_EPOCHS, _MOST_EPOCHS = 2200, 12, 200  # length of the training: the steps, within these epochs
_RPN_STEPS, _MOST_RPN_EPOCHS = 450, 12  # length of the training of the RPN in stage propose: the shorter of the two
_ADAPT_STEPS, _MOST_ADAPT_EPOCHS = 80, 12
_SMALLEST, _LONG = 256, 640  # minimum short side and maximum long side of the detector's input, pixels
_MANY_NAMES = 20  # with so many, the embeddings of the teacher help more than they hinder
_ANCHOR_SCALES = (0.71, 1.0, 1.41)
_TINY = 0.04  # fraction of the image's long side; smaller boxes are too small to recognize their object


@dataclass(frozen=True)
class DeviceValues:
    """The values of a recipe that depend on the device. The method is the same on all devices.

    Attributes:
        backbone: The backbone.
        note: The comment on the backbone.
        image_size: Short and long side of the detector's input; None for the size of the images, within limits.
        smallest_anchor: The smallest anchor side as a fraction of the long side of the input.
        levels: Number of pyramid levels.
        widths: The keys of ``detector`` that set widths and numbers of regions.
        widths_note: The comment on them.
        batch_size: Images per step; None for as many as the memory of the GPU allows.
        workers: Processes that read images.
    """

    backbone: str
    note: str
    image_size: tuple[int, int] | None
    smallest_anchor: float
    levels: int
    widths: Mapping[str, int]
    widths_note: str
    batch_size: int | None
    workers: int


DEVICES = {
    "cpu": DeviceValues(
        backbone="tf_efficientnet_lite0",
        note="fast enough for a CPU; for a GPU, write the recipe with ezsd init --for gpu",
        image_size=None,
        smallest_anchor=24 / 512,
        levels=4,
        widths={
            "fpn_channels": 96,
            "rpn_proposals": 256,
            "head_convs": 1,
            "head_channels": 96,
            "head_features": 512,
            "rois_per_image": 48,
        },
        widths_note="this and the next five values are small, for a CPU; remove them to use the published values",
        batch_size=4,
        workers=2,
    ),
    "gpu": DeviceValues(
        backbone="resnet50",
        note="download; on a CPU, write the recipe with ezsd init --for cpu",
        image_size=(800, 1333),
        smallest_anchor=32 / 1333,
        levels=5,
        widths={
            "fpn_channels": 256,
            "rpn_proposals": 1000,
            "head_convs": 3,
            "head_channels": 256,
            "head_features": 1024,
            "rois_per_image": 512,
        },
        widths_note="this and the next five values are the published ones",
        batch_size=None,
        workers=4,
    ),
}
_MOST_IMAGES, _FEWEST_IMAGES = 16, 2  # per step on a GPU
_BYTES_PER_IMAGE = 2 * 10**9  # estimated GPU memory of a training step at [800, 1333] in half precision


@dataclass(frozen=True)
class Settings:
    """Settings of a recipe that follow from the device and the user's data.

    Attributes:
        values: The values of the device.
        image_size: Short and long side of the detector's input.
        anchors: The anchor sides.
        batch_size: Images per step.
        precision: The precision of all stages.
        precision_note: The comment on it.
    """

    values: DeviceValues
    image_size: tuple[int, int]
    anchors: AnchorChoice
    batch_size: int
    precision: Precision
    precision_note: str


@dataclass(frozen=True)
class OwnData:
    """The user's images.

    Attributes:
        images: The folder of the train images.
        annotations: The annotation files of "train" and "val".
        counts: The number of images of "train" and "val".
        sizes: Width and height of the images, pixels.
        boxes: The number of boxes by category name.
        base_boxes: The boxes of base names.
        val_images: The folder of the val images; None for that of the train images.
    """

    images: Path
    annotations: Mapping[str, Path]
    counts: Mapping[str, int]
    sizes: Sequence[tuple[int, int]]
    boxes: Mapping[str, int]
    base_boxes: LabeledBoxes
    val_images: Path | None = None


def choose_settings(data: OwnData, device: str) -> Settings:
    """Choose the settings for a device: ``cpu``, ``gpu``, or ``auto`` for a GPU if this machine has one."""
    gpu = device == "gpu" or (device == "auto" and torch.cuda.is_available())
    values = DEVICES["gpu" if gpu else "cpu"]
    size = values.image_size or _seen(data.sizes)
    anchors = choose_anchors(data.base_boxes, size, values.smallest_anchor, values.levels, _ANCHOR_SCALES)
    return Settings(values, size, anchors, values.batch_size or _gpu_batch(), *_precision(gpu))


def recipe_text(data: OwnData, split: CategorySplit, teacher: str, out: Path, settings: Settings) -> str:
    """Return a recipe as commented YAML.

    Args:
        data: The images and boxes of the recipe.
        split: Base and novel names.
        teacher: The teacher, as in a recipe.
        out: The path of the recipe, used in the commands of its header.
        settings: The settings of :func:`choose_settings`.
    """
    precision, path = settings.precision, shell_quoted(out)
    return f"""\
# Trains a detector that finds the novel names without training boxes for them.
#   ezsd validate {path}   list all problems of the recipe, the boxes and the images
#   ezsd plan {path}       estimate time, disk and memory on this machine
#   ezsd run {path} --out {shell_quoted(Path("runs", out.stem))}
# gzsd AP50: not measured.
# All keys are documented in docs/recipes.md; keys that are not set have their defaults.
split:
  base:  # names with boxes; the detector is trained on these boxes
{_names(split.base, data.boxes)}
  novel:  # names without training boxes; their boxes in the val images are used only to compute the figures
{_names(split.novel, {})}
teacher: {_quoted(teacher)}  # offline knows common objects; open_clip:ViT-B-32/openai knows many more (download)
prompt: {_quoted(PROMPT)}
seed: 0
data:
{_parts(data, out.absolute().parent)}
  skip_bad: false  # true: skip bad images and boxes instead of stopping
  workers: {settings.values.workers}  # processes that read images
{_adapt(data, split, teacher)}
  precision: {precision}  # {settings.precision_note}
{_propose(data.counts["train"], settings.batch_size, teacher)}
  precision: {precision}
{_detector(settings)}
{_train(data.counts["train"], settings.batch_size, len(split.names))}
  precision: {precision}
"""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is valid YAML


def _names(names: Sequence[str], boxes: Mapping[str, int]) -> str:
    return "\n".join(
        f"    - {_quoted(name)}" + (f"  # {counted(boxes[name], 'box', 'boxes')}" if name in boxes else "")
        for name in names
    )


def _parts(data: OwnData, home: Path) -> str:
    """Return the train and val part; paths are relative to the recipe's folder if they are in it."""

    def shown(path: Path) -> str:
        path = path.absolute()
        return _quoted(path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path))

    folders = {"train": data.images, "val": data.val_images or data.images}
    return "\n".join(
        f"  {name}:  # {counted(data.counts[name], 'image')}\n    images: {shown(folders[name])}\n"
        f"    annotations: {shown(path)}"
        for name, path in data.annotations.items()
    )


def _adapt(data: OwnData, split: CategorySplit, teacher: str) -> str:
    boxes = sum(data.boxes[name] for name in split.base) * data.counts["train"] / max(1, len(data.sizes))
    epochs = min(_MOST_ADAPT_EPOCHS, max(2, round(_ADAPT_STEPS * _CROPS / max(boxes, 1))))
    long = statistics.median(max(size) for size in data.sizes)
    towers, lr = ("[image]", "1.0e-3") if teacher == "offline" else ("[image, text]", "1.0e-4")
    return f"""\
adapt:  # stage 1: adapt the teacher's normalization layers to your images, using crops of base boxes
  towers: {towers}
  epochs: {epochs}
  batch_size: {_CROPS}
  lr: {lr}
  balance: 1.0  # compensate for frequent base names
  share: auto  # keep the part of the adaptation that is best for base names left out of it
  min_side: {max(8, round(_TINY * long))}  # skip boxes whose longer side is smaller (pixels)"""


def _propose(images: int, batch: int, teacher: str) -> str:
    dense_sides = "[512, 960]" if teacher == "offline" else "[640, 1280]"
    epochs = max(1, min(_MOST_RPN_EPOCHS, round(_RPN_STEPS * batch / images)))
    reading = ""
    if _is_vit(teacher):
        reading = "\n  dense_reading: auto  # the reading of the vision transformer that names base boxes best"
    return f"""\
propose:  # stage 2: find boxes that may contain novel objects, and embed them with the teacher
  scoring: regions  # boxes of a region proposal network that is trained on the base boxes
  rpn_epochs: {epochs}  # the training of the detector starts from this network (train.from_rpn)
  ranking: novel  # rank boxes by the teacher's probability of the novel names ...
  objectness: 0.5  # ... times the square root of the network's objectness
  weighting: novel  # boxes that look like a novel object count most in the training
  dense_sides: {dense_sides}  # long sides of the teacher's input; larger values find smaller objects{reading}
  nms: 0.5
  base_filter: false  # keep boxes that look like a base name: novel objects often do
  base_overlap: 0.7  # drop boxes that lie on a base object by more than this fraction
  keep: 60  # boxes per image
  crop_rank: 0.0  # rank by dense scores only: about as accurate here, at half the cost"""


def _is_vit(teacher: str) -> bool:
    if not teacher.startswith("open_clip:"):
        return False
    from ezsd.teacher.clip import may_be_vit  # open_clip takes seconds to import

    return may_be_vit(teacher)


def _detector(settings: Settings) -> str:
    values, (short, long) = settings.values, settings.image_size
    first, *others = (f"  {key}: {value}" for key, value in values.widths.items())
    half, most = (round(100 * share) for share in settings.anchors.shares)
    return "\n".join([
        "detector:",
        f"  backbone: {values.backbone}  # {values.note}",
        f"  image_size: [{short}, {long}]  # short and long side; larger (up to [800, 1333]) finds smaller objects, "
        "but is slower; ezsd validate then says which anchors fit",
        f"{first}  # {values.widths_note}",
        *others,
        f"  anchor_sides: {list(settings.anchors.sides)}  # {half} % of the base boxes have an anchor with IoU 0.5, "
        f"{most} % with 0.7",
        f"  anchor_scales: {list(settings.anchors.scales)}",
        "  box_quality: true  # also predict how well a box fits, and use it in the scores",
        "  quality_power: 0.25",
        "  objectness_power: 0.5",
        "  soft_nms: 0.3  # lower the scores of overlapping boxes instead of removing them",
        "  score_threshold: 0.0001",
        "  detections_per_image: 300",
        "  masks: auto  # train masks if at least half of the boxes have one",
    ])  # fmt: skip


def _train(images: int, batch: int, names: int) -> str:
    epochs = _rounded(min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, _STEPS * batch / images)))
    steps = math.ceil(images * epochs / batch)
    return f"""\
train:  # stage 3: train the detector
  epochs: {epochs}  # passes over {images} images: {steps:,} steps; increase it as long as the figures improve
  batch_size: {batch}  # decrease it if memory is insufficient
  optimizer: adamw
  lr: 5.0e-4
  backbone_lr: 0.2
  schedule: cosine
  warmup_steps: 100
  from_rpn: true
  scale_jitter: [0.7, 1.4]  # augmentation: random scale and crop
  color_jitter: 0.2
  ema: 0.998  # the model gets moving averages of the weights
  names_weight: 1.0  # distill the teacher's distribution over the names ...
{_distillation(names)}
  proposals_per_image: 48
  pseudo_boxes: 3.0  # the best proposals of all images, this many per image on average, are trained as objects
  background_share: 0.2  # proposals that are probably no novel object are trained as background
  novel_rivals: true  # base objects are trained not to be novel objects
  ignore_top: 20  # the 20 best proposals are not used as background, because they may contain novel objects
  checkpoint_steps: 200"""


def _distillation(names: int) -> str:
    """Return the keys for the embeddings and the base boxes: with many names, more is left to the teacher."""
    if names < _MANY_NAMES:
        return "  distillation_weight: 0.02  # ... and, with little weight, its embeddings"
    return """\
  distillation_weight: 0.2  # ... and its embeddings
  base_labels: 0.5  # on base boxes, half of the distribution is the label"""


def _seen(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the short and long side of the detector's input for an image of median size.

    Images are only enlarged up to ``_SMALLEST``.
    """
    short, long = (statistics.median(side(size) for size in sizes) for side in (min, max))
    shrink = min(1.0, _LONG / long)
    small = max(_SMALLEST, round(short * shrink))
    return small, max(small, round(long * shrink))


def _rounded(epochs: float) -> int:
    """Round to two significant digits: 133 -> 130."""
    digits = max(0, len(str(round(epochs))) - 2)
    return round(round(epochs), -digits)


def _gpu_batch() -> int:
    """Return the images per step that fit the memory of the GPU; the most without a GPU on this machine."""
    batch = _MOST_IMAGES
    if torch.cuda.is_available():
        memory = 0.9 * torch.cuda.get_device_properties(0).total_memory
        while batch > _FEWEST_IMAGES and batch * _BYTES_PER_IMAGE > memory:
            batch //= 2
    return batch


def _precision(gpu: bool) -> tuple[Precision, str]:
    """Return the faster precision on the device, and the reason as a comment."""
    if not gpu:
        return faster_precision(), "the faster of fp32 and bf16 on this machine"
    if not torch.cuda.is_available():
        return "bf16", "fast on recent GPUs; use fp16 on older ones"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "fast on this machine; use fp32 on others"
    return "fp32", "bf16 is faster on recent GPUs"
