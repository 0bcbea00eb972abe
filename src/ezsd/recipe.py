"""What one run does: a typed model per stage, read from YAML. Unknown keys are refused, all faults told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ezsd.errors import RecipeError
from ezsd.files import write_text

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Sides = Annotated[tuple[Count, ...], Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(_Section):
    """One part (train or val) of the photos. Relative paths start at the working directory."""

    images: Path
    annotations: Path
    limit: Count | None = None  # only the first so many photos, by image id


class Data(_Section):
    train: Part
    val: Part
    skip_bad: bool = False  # list, count and leave out bad photos and boxes instead of stopping
    workers: Annotated[int, Field(ge=0)] = 2


class Adapt(_Section):
    """Stage 1: train the teacher's normalisation layers on crops of base objects."""

    enabled: bool = True
    towers: tuple[Literal["image", "text"], ...] = ("image", "text")
    epochs: Count = 12
    batch_size: Count = 64
    lr: Positive = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip_norm: Positive = 0.1
    jitter: Fraction = 0.1  # box corners move by up to this part of the box's sides
    min_side: Annotated[float, Field(ge=0)] = 0  # smaller boxes (pixels, longer side) are left out
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class Propose(_Section):
    """Stage 2: CLIP proposals, and the teacher's embeddings of them and of the base boxes."""

    scoring: Literal["dense", "exhaustive"] = "dense"
    ranking: Literal["entropy", "max_probability"] = "entropy"
    image_size: tuple[Count, Count] = (800, 1333)  # short and long side the anchor grid is laid on
    stride: Count = 32
    sides: Sides = (32, 64, 128, 256, 512)
    ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    dense_sides: Sides = (640, 1280)  # long sides at which the teacher sees the whole photo
    nms: Fraction = 0.7
    shortlist: Count = 1000  # boxes left after NMS
    base_filter: bool = True  # drop boxes whose best name is a base name
    keep: Count = 300  # boxes cropped, embedded and stored
    crop_rank: Fraction = 0.5  # share of the crop's score, beside the dense score, in the final rank
    batch_size: Count = 256  # crops a teacher pass
    shard_photos: Count = 256
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class Detector(_Section):
    """The detector: backbone + FPN + RPN + RoI heads."""

    backbone: Literal["resnet50", "tf_efficientnet_lite0"] = "resnet50"
    pretrained: bool = True
    image_size: tuple[Count, Count] = (800, 1333)  # photos are resized to this short side, at most this long side
    fpn_channels: Count = 256
    anchor_sides: Annotated[tuple[Count, ...], Field(min_length=5, max_length=5)] = (32, 64, 128, 256, 512)
    rpn_proposals: Count = 1000  # after NMS, training and inference
    roi_size: Count = 7
    head_convs: Count = 3
    head_channels: Count = 256
    head_features: Count = 1024
    rois_per_photo: Count = 512  # sampled for the box losses
    masks: Literal["auto"] | bool = "auto"  # auto: when the annotations have them
    semantic_regression: bool = True
    semantic_top_k: Count = 5  # names of a region whose boxes are regressed apart; 1 = paper
    score_threshold: Fraction = 0.001
    nms: Fraction = 0.5
    detections_per_photo: Count = 100


class Train(_Section):
    """Stage 3: the detector's training."""

    epochs: Positive = 12
    batch_size: Count = 4  # photos a device and step
    accumulate: Count = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.005
    backbone_lr: Positive = 1.0  # factor on lr for the backbone
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[Fraction, ...] = (2 / 3, 11 / 12)  # parts of the schedule where lr falls tenfold
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    clip_norm: Positive = 10.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    flip: Fraction = 0.5
    distillation_weight: Annotated[float, Field(ge=0)] = 1.0  # 0 = no distillation
    proposals_per_photo: Annotated[int, Field(ge=0)] = 200
    ignore_overlap: Fraction = 1.0  # RoI negatives that overlap a CLIP proposal more are ignored; 1 = paper
    checkpoint_steps: Count = 500


class Evaluate(_Section):
    """Stage 4: zsd and gzsd on the val part."""

    batch_size: Count = 4
    proposals: bool = True  # also measure the novel recall of the CLIP proposals on the val photos


class Recipe(_Section):
    """One run. Read it with :func:`load_recipe`."""

    split: str | dict[Literal["base", "novel"], tuple[str, ...]]
    teacher: str
    data: Data
    seed: Annotated[int, Field(ge=0)] = 0
    prompt: str = "a photo of a {name}"
    adapt: Adapt = Adapt()
    propose: Propose = Propose()
    detector: Detector = Detector()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _prompt_has_a_place_for_the_name(self) -> Recipe:
        if "{name}" not in self.prompt:
            raise ValueError('prompt must contain "{name}", as in "a photo of a {name}"')
        return self


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe from YAML and apply ``--set`` changes.

    Args:
        path: a YAML file.
        changes: texts like ``train.lr=0.01``; the value is read as YAML.

    Raises:
        RecipeError: the file is missing or not YAML, or keys or values are wrong (all told at once).
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"Recipe {path} cannot be read: {error}. Give the path of a recipe (YAML).") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"Recipe {path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"Recipe {path} holds no keys; expected split, teacher, data and so on (see recipes/).")
    for change in changes:
        _apply(values, change)
    return parse_recipe(values, str(path))


def parse_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """Check plain values against the recipe's types; ``where`` names their source in messages.

    Raises:
        RecipeError: keys or values are wrong (all told at once).
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError([_fault(where, entry) for entry in error.errors()]) from None


def save_recipe(recipe: Recipe, path: Path, notes: Mapping[str, Any] | None = None) -> None:
    """Write the resolved recipe as YAML; ``notes`` (versions, hardware) become comment lines above it."""
    header = "".join(f"# {key}: {value}\n" for key, value in (notes or {}).items())
    write_text(path, header + yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def _apply(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(f'--set {change}: expected KEY=VALUE, as in --set train.lr=0.01')
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {change}: the value is not YAML: {error}") from None
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise RecipeError(f"--set {change}: {parent} is a single value, it has no keys below it")
    values[last] = value


def _fault(where: str, entry: Any) -> str:
    key = ".".join(str(part) for part in entry["loc"]) or "recipe"
    if entry["type"] == "extra_forbidden":
        return f"{where}: unknown key {key}. Remove it, or see docs/recipes.md for the keys there are."
    if entry["type"] == "missing":
        return f"{where}: {key} is missing. Add it (see recipes/ for examples)."
    return f"{where}: {key} = {entry['input']!r}: {entry['msg']}."
