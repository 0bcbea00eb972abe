"""Recipes: the settings of a run, one typed model per stage, read from YAML. All problems are reported together."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ezsd.errors import RecipeError
from ezsd.recipe_files import find_recipe, read_values
from ezsd.utils.files import write_text

# Strict, so that `epochs: true` is not read as 1 and a number in quotes is an error.
Fraction = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1)]
CountOrZero = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
Sides = Annotated[tuple[Count, ...], Field(min_length=1)]
DEFAULT_SIZE_POWER = 0.1
TORCHVISION_COCO = "torchvision:coco"
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]


def _short_then_long(size: tuple[int, int]) -> tuple[int, int]:
    if size[0] > size[1]:
        raise ValueError("expected the short side first, then the long side, as in [800, 1333]")
    return size


def _with_name_placeholder(prompt: str) -> str:
    try:
        good = "cat" in prompt.format(name="cat") and "{name}" in prompt
    except (LookupError, ValueError, AttributeError):
        good = False
    if not good:
        raise ValueError('expected a text with {name} and no other braces, as in "a photo of a {name}"')
    return prompt


def _low_then_high(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("expected the smaller factor first, as in [0.7, 1.4]")
    return bounds


# A model of a stranger could ask for any memory.
Pixels = Annotated[int, Field(strict=True, ge=1, le=10_000)]
Regions = Annotated[int, Field(strict=True, ge=1, le=10_000)]  # of an image
ImageSize = Annotated[tuple[Pixels, Pixels], AfterValidator(_short_then_long)]
Factors = Annotated[tuple[Positive, Positive], AfterValidator(_low_then_high)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_section(cls, values: Any) -> Any:
        return {} if values is None else values  # "train:" with all its keys commented out


class Part(_Section):
    """One part (train or val) of the images; for relative paths see :func:`load_recipe`."""

    images: UserPath
    annotations: UserPath
    limit: Count | None = None  # use only the first ``limit`` images, by image id


class DataConfig(_Section):
    """The images and their boxes."""

    train: Part
    val: Part
    skip_bad: Flag = False  # list, count and skip bad images and boxes instead of stopping
    workers: CountOrZero = 2


class AdaptConfig(_Section):
    """Stage 1: train the teacher's normalization layers on crops of base objects."""

    enabled: Flag = True
    towers: tuple[Literal["image", "text"], ...] = ("image", "text")
    epochs: Count = 12
    batch_size: Count = 64
    lr: Positive = 1e-4
    weight_decay: NotNegative = 1e-4
    clip_norm: Positive = 0.1
    balance: Fraction = 0.0  # fraction of the base names' log frequency added to the training logits; 0 = paper
    share: Fraction | Literal["auto"] = 1.0  # norms = raw + share * (trained - raw); 1 = paper
    jitter: Fraction = 0.1  # box corners move by up to this fraction of the box's sides
    min_side: NotNegative = 0  # boxes with a shorter longer side (pixels) are skipped
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class ProposeConfig(_Section):
    """Stage 2: compute CLIP proposals, and the teacher's embeddings of them and of the base boxes."""

    scoring: Literal["dense", "regions", "exhaustive", "rpn"] = "dense"
    objectness: NotNegative = 0.0  # exponent of the RPN objectness in a box's score; 0: no RPN, as published
    rpn_epochs: Positive = 12  # training epochs of the RPN (used by scoring rpn and objectness)
    ranking: Literal["entropy", "max_probability", "novel"] = "entropy"
    image_size: ImageSize = (800, 1333)  # short and long side of the image for the anchor grid
    stride: Count = 32
    sides: Sides = (32, 64, 128, 256, 512)
    ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    dense_sides: Sides = (640, 1280)  # long sides of the teacher's full-image input
    # what the last block of a vision transformer computes in dense passes; auto: by the accuracy of base names
    dense_reading: Literal["block", "value", "self_self", "self_self_block", "auto"] = "block"
    # ranking novel: exponent of the area, relative to the largest box; auto: by the recall of left-out base names
    size_power: NotNegative | Literal["auto"] = DEFAULT_SIZE_POWER
    nms: Fraction = 0.7
    shortlist: Count = 1000  # boxes kept after NMS
    base_filter: Flag = True  # drop boxes whose best name is a base name
    base_overlap: Fraction = 1.0  # drop boxes with more than this fraction of their area in a base box; 1 = paper
    # weight of a proposal in the distillation: probability of its best name, or of a novel name with the score
    weighting: Literal["best_name", "novel"] = "best_name"
    keep: Count = 300  # boxes cropped, embedded and stored
    crop_rank: Fraction = 0.5  # weight of the crop score in the final rank; the dense score has the rest
    batch_size: Count = 256  # crops per teacher pass
    shard_images: Count = 256
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    @property
    def asks_rpn(self) -> bool:
        """Whether an RPN is trained on base boxes, for its regions or for the objectness."""
        return self.scoring in ("regions", "rpn") or self.objectness > 0

    @property
    def wanted(self) -> int:
        """The number of boxes to evaluate to keep ``keep``: the full shortlist if base names are dropped from it."""
        return self.shortlist if self.base_filter else min(self.keep, self.shortlist)


class DetectorConfig(_Section):
    """The detector: backbone + FPN + RPN + RoI heads."""

    backbone: str = "resnet50"  # any model of timm with features at strides 4 to 32
    pretrained: Flag = True
    start_from: str | None = None  # a model folder, or TORCHVISION_COCO; replaces the ImageNet weights
    image_size: ImageSize = (800, 1333)  # short side of the input, and maximum long side
    fpn_channels: Count = 256
    # of each pyramid level; four sides: no level of stride 4
    anchor_sides: Annotated[tuple[Count, ...], Field(min_length=4, max_length=5)] = (32, 64, 128, 256, 512)
    # factors on the side, all on each level
    anchor_scales: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=9)] = (1.0,)
    rpn_proposals: Regions = 1000  # after NMS, in training and inference
    roi_size: Count = 7
    head_convs: Count = 3
    head_channels: Count = 256
    head_features: Count = 1024
    rois_per_image: Count = 512  # sampled for the box losses
    masks: Literal["auto"] | Flag = "auto"  # auto: if the annotations have them
    semantic_regression: Flag = True
    semantic_placement: Literal["before", "after"] = "before"  # of the last hidden layer; after = paper
    semantic_top_k: Annotated[Count, Field(le=100)] = 5  # top names of a region that get own boxes; 1 = paper
    box_quality: Flag = False  # predict the IoU of boxes, in the RPN and the box head, and use it in the scores
    objectness_power: NotNegative = 0.0  # exponent of a region's objectness in the scores of its detections
    quality_power: NotNegative = 1.0  # exponent of a box's predicted IoU in its score
    score_threshold: Fraction = 0.001
    nms: Fraction = 0.5
    soft_nms: NotNegative = 0.0  # sigma of a Gaussian soft-NMS; 0 = hard NMS
    detections_per_image: Regions = 100


class TrainConfig(_Section):
    """Stage 3: train the detector."""

    epochs: Positive = 12
    batch_size: Count = 4  # images per device and step
    accumulate: Count = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.005
    backbone_lr: Positive = 1.0  # factor on lr for the backbone
    weight_decay: NotNegative = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[Fraction, ...] = (2 / 3, 11 / 12)  # fractions of the schedule after which lr is divided by 10
    warmup_steps: CountOrZero = 500
    clip_norm: Positive = 10.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    from_rpn: Flag = False  # start backbone, FPN and RPN from the RPN of stage propose, if it trains one
    repeat_threshold: Fraction = 0.0  # show images of names in fewer images (fraction) more often; 0 = none
    flip: Fraction = 0.5
    scale_jitter: Factors = (1.0, 1.0)  # range of a random factor on the scale of images; [1, 1]: none
    color_jitter: Fraction = 0.0  # strength of random changes of brightness, contrast, saturation and hue
    ema: Fraction = 0.0  # decay of the moving averages of the weights that the model ends with; 0: none
    validate_steps: CountOrZero = 0  # steps between validations on base boxes of val images; 0: none
    validate_images: Count = 64
    patience: CountOrZero = 0  # validations without improvement after which the training stops; 0: never stops
    distillation_weight: NotNegative = 1.0  # of the L1 between embeddings; 0 = none
    names_weight: NotNegative = 0.0  # of the cross-entropy between name distributions; 0 = none, as in the paper
    base_labels: Fraction = 1.0  # share of the label in the name distribution of base boxes; the teacher has the rest
    background_share: Fraction = 0.0  # of an uncertain proposal's name distribution; 0 = none
    proposals_per_image: CountOrZero = 200
    ignore_top: CountOrZero = 0  # ignore negatives on this number of best CLIP proposals; 0 = paper
    pseudo_boxes: NotNegative = 0.0  # best CLIP proposals that are trained as objects, mean per image; 0 = paper
    class_loss: Literal["softmax", "federated", "seesaw"] = "softmax"  # the other two are for long-tailed data
    novel_negatives: Flag = False  # background is also classified against novel names; false = paper
    novel_rivals: Flag = False  # base objects are classified against novel names too; false = paper
    checkpoint_steps: Count = 500
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()  # in addition to log.jsonl


class EvaluateConfig(_Section):
    """Stage 4: measure zsd and gzsd on the val part."""

    batch_size: Count = 4
    proposals: Flag = True  # also measure the novel recall of the CLIP proposals on the val images
    second_opinion: Literal["none", "dense", "crops"] = "none"  # how the teacher reads detections to score them again
    opinion_powers: tuple[Fraction, Fraction] = (0.1, 0.3)  # weights of the teacher for base and for novel names
    calibrate_novel: Flag = False  # choose the thresholds of novel names by their val boxes, too


class Recipe(_Section):
    """The settings of one run. Read it with :func:`load_recipe`."""

    split: str | dict[str, tuple[str, ...]]  # the name of a shipped split, or base and novel names
    teacher: str
    data: DataConfig
    seed: CountOrZero = 0
    prompt: Annotated[str, AfterValidator(_with_name_placeholder)] = "a photo of a {name}"
    adapt: AdaptConfig = AdaptConfig()
    propose: ProposeConfig = ProposeConfig()
    detector: DetectorConfig = DetectorConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


# Old keys (version 0.1) and their new names. Recipes must use the new names; run and model folders can have both.
RENAMED_KEYS = {
    "propose.shard_photos": "propose.shard_images",
    "detector.rois_per_photo": "detector.rois_per_image",
    "detector.detections_per_photo": "detector.detections_per_image",
    "train.proposals_per_photo": "train.proposals_per_image",
}


def load_recipe(path: str | Path, changes: Sequence[str] = (), preset: str | None = None) -> Recipe:
    """Read a recipe from YAML, apply a preset, then ``--set`` changes.

    Relative paths of images and annotations are relative to the folder of the recipe if they exist there, otherwise to
    the working directory; those of ``changes`` are relative to the working directory.

    Args:
        path: A YAML file, or the name of a shipped recipe.
        changes: Changes like ``train.lr=0.01``; the value is read as YAML.
        preset: The name of a preset (``paper``, ``baseline`` or ``short``), whose values replace those of the recipe.

    Raises:
        RecipeError: The file is missing or not YAML, there is no such preset, or keys or values are invalid. The error
            lists all problems.
    """
    path = find_recipe(path)
    values, problems = read_values(path, changes, preset)
    try:
        recipe = parse_recipe(values, str(path))
    except RecipeError as error:
        raise RecipeError([*problems, *error.problems]) from None
    if problems:
        raise RecipeError(problems)
    return recipe


def load_run_recipe(path: Path) -> Recipe:
    """Read the recipe.yaml of a run folder; old names of renamed keys are accepted.

    Raises:
        RecipeError: The file is missing or is not a recipe.
    """
    values, _ = read_values(path)
    renamed = {
        name: renamed_keys(section, name) if isinstance(section, dict) else section for name, section in values.items()
    }
    return parse_recipe(renamed, str(path))


def renamed_keys(values: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Return ``values`` with the keys of version 0.1 renamed.

    Args:
        values: One section of a recipe, or values by full key if ``section`` is empty.
        section: The name of the section.
    """
    prefix = f"{section}." if section else ""
    return {RENAMED_KEYS.get(prefix + key, prefix + key).removeprefix(prefix): value for key, value in values.items()}


def parse_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """Validate plain values against the types of the recipe.

    Args:
        values: The values by key.
        where: The source of the values, shown in messages.

    Raises:
        RecipeError: Keys or values are invalid. The error lists all problems.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        by_key: dict[str, list[Any]] = {}
        for entry in error.errors():
            by_key.setdefault(_key_of(values, entry), []).append(entry)
        raise RecipeError([f"{where}: {_problem(key, entries)}" for key, entries in by_key.items()]) from None


def save_recipe(recipe: Recipe, path: Path, notes: Mapping[str, Any] | None = None) -> None:
    """Write the resolved recipe as YAML, with ``notes`` (versions, hardware) as comment lines at the top."""
    header = "".join(f"# {key}: {' '.join(str(value).split())}\n" for key, value in (notes or {}).items())
    write_text(path, header + yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def recipe_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """Return all keys of a recipe in order, as in ``data.train.images``."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += recipe_keys(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _key_of(values: Any, entry: Any) -> str:
    """Return the key that a pydantic error refers to, without the type names that pydantic adds."""
    parts = []
    for part in entry["loc"]:
        inside = isinstance(values, Mapping) and part in values
        if inside or (isinstance(values, (list, tuple)) and isinstance(part, int) and part < len(values)):
            values = values[part]
        elif entry["type"] != "missing" or part != entry["loc"][-1]:
            continue
        parts.append(str(part))
    return ".".join(parts) or "recipe"


def _problem(key: str, entries: Sequence[Any]) -> str:
    entry = entries[0]
    if key in RENAMED_KEYS:
        return f"{key} is now {RENAMED_KEYS[key]}. Rename it."
    if entry["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, recipe_keys(), n=1, cutoff=0.8)
        hint = f"Did you mean {near[0]}?" if near else "Remove it, or see docs/recipes.md for the list of keys."
        return f"unknown key {key}. {hint}"
    if entry["type"] == "missing":
        return f"{key} is missing. Add it; see recipes/ for examples."
    given = repr(entry["input"])
    shown = f"{given[:77]}..." if len(given) > 80 else given
    reasons = [entry["msg"].removeprefix("Value error, ").replace("Input should be", "expected") for entry in entries]
    hint = " Put names in quotes." if isinstance(entry["input"], bool) and key.startswith("split.") else ""
    return f"{key} = {shown}: {' or '.join(dict.fromkeys(reasons))}.{hint}"


def needs_targets(config: TrainConfig) -> bool:
    """Return whether the training needs the targets of stage propose."""
    return any((config.distillation_weight, config.names_weight, config.ignore_top, config.pseudo_boxes))


def reads_densely(recipe: Recipe) -> bool:
    """Return whether the teacher of a recipe embeds many boxes of an image in one pass."""
    proposes = needs_targets(recipe.train) or recipe.evaluate.proposals
    dense = proposes and recipe.propose.scoring in ("dense", "regions")
    return dense or recipe.evaluate.second_opinion == "dense"
