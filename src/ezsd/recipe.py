"""What one run does: a typed model per stage, read from YAML. Unknown keys are refused, all problems told at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ezsd.errors import RecipeError
from ezsd.recipe_files import find_recipe
from ezsd.utils.files import write_text

# Strict, so that `epochs: true` is not read as 1 and a number in quotes is told.
Fraction = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1)]
CountOrZero = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
Sides = Annotated[tuple[Count, ...], Field(min_length=1)]
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]


def _short_then_long(size: tuple[int, int]) -> tuple[int, int]:
    if size[0] > size[1]:
        raise ValueError("expected the short side first, then the long side, as in [800, 1333]")
    return size


def _with_place_for_the_name(prompt: str) -> str:
    try:
        good = "cat" in prompt.format(name="cat") and "{name}" in prompt
    except (LookupError, ValueError, AttributeError):
        good = False
    if not good:
        raise ValueError('expected a text with {name} and no other braces, as in "a photo of a {name}"')
    return prompt


ImageSize = Annotated[tuple[Count, Count], AfterValidator(_short_then_long)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_section(cls, values: Any) -> Any:
        return {} if values is None else values  # "train:" with every key below it commented out


class Part(_Section):
    """One part (train or val) of the images. Relative paths start at the working directory."""

    images: UserPath
    annotations: UserPath
    limit: Count | None = None  # only the first so many images, by image id


class DataConfig(_Section):
    """The images and their boxes."""

    train: Part
    val: Part
    skip_bad: Flag = False  # list, count and leave out bad images and boxes instead of stopping
    workers: CountOrZero = 2


class AdaptConfig(_Section):
    """Stage 1: train the teacher's normalisation layers on crops of base objects."""

    enabled: Flag = True
    towers: tuple[Literal["image", "text"], ...] = ("image", "text")
    epochs: Count = 12
    batch_size: Count = 64
    lr: Positive = 1e-4
    weight_decay: NotNegative = 1e-4
    clip_norm: Positive = 0.1
    balance: Fraction = 0.0  # share of the log frequency of base names that the training logits get; 0 = paper
    jitter: Fraction = 0.1  # box corners move by up to this part of the box's sides
    min_side: NotNegative = 0  # smaller boxes (pixels, longer side) are left out
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class ProposeConfig(_Section):
    """Stage 2: CLIP proposals, and the teacher's embeddings of them and of the base boxes."""

    scoring: Literal["dense", "exhaustive", "rpn"] = "dense"
    objectness: NotNegative = 0.0  # power of an RPN's objectness in a box's score; 0: no RPN is asked, as published
    rpn_epochs: Positive = 12  # passes over the train images that the RPN (scoring rpn, objectness) is trained for
    ranking: Literal["entropy", "max_probability", "novel"] = "entropy"
    image_size: ImageSize = (800, 1333)  # short and long side the anchor grid is laid on
    stride: Count = 32
    sides: Sides = (32, 64, 128, 256, 512)
    ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    dense_sides: Sides = (640, 1280)  # long sides at which the teacher sees the whole image
    nms: Fraction = 0.7
    shortlist: Count = 1000  # boxes left after NMS
    base_filter: Flag = True  # drop boxes whose best name is a base name
    base_overlap: Fraction = 1.0  # drop boxes with more than this share of them in one base box; 1 = paper
    keep: Count = 300  # boxes cropped, embedded and stored
    crop_rank: Fraction = 0.5  # share of the crop's score, beside the dense score, in the final rank
    batch_size: Count = 256  # crops a teacher pass
    shard_images: Count = 256
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    @property
    def asks_rpn(self) -> bool:
        """Whether an RPN is trained on base boxes, for its regions or for their objectness."""
        return self.scoring == "rpn" or self.objectness > 0

    @property
    def wanted(self) -> int:
        """Boxes that are looked at to keep ``keep``: the whole shortlist where base names are dropped from it."""
        return self.shortlist if self.base_filter else min(self.keep, self.shortlist)


class DetectorConfig(_Section):
    """The detector: backbone + FPN + RPN + RoI heads."""

    backbone: Literal["resnet50", "tf_efficientnet_lite0"] = "resnet50"
    pretrained: Flag = True
    image_size: ImageSize = (800, 1333)  # images are resized to this short side, at most this long side
    fpn_channels: Count = 256
    anchor_sides: Annotated[tuple[Count, ...], Field(min_length=5, max_length=5)] = (32, 64, 128, 256, 512)
    rpn_proposals: Count = 1000  # after NMS, training and inference
    roi_size: Count = 7
    head_convs: Count = 3
    head_channels: Count = 256
    head_features: Count = 1024
    rois_per_image: Count = 512  # sampled for the box losses
    masks: Literal["auto"] | Flag = "auto"  # auto: when the annotations have them
    semantic_regression: Flag = True
    semantic_top_k: Count = 5  # names of a region whose boxes are regressed apart; 1 = paper
    score_threshold: Fraction = 0.001
    nms: Fraction = 0.5
    detections_per_image: Count = 100


class TrainConfig(_Section):
    """Stage 3: the detector's training."""

    epochs: Positive = 12
    batch_size: Count = 4  # images a device and step
    accumulate: Count = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.005
    backbone_lr: Positive = 1.0  # factor on lr for the backbone
    weight_decay: NotNegative = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[Fraction, ...] = (2 / 3, 11 / 12)  # parts of the schedule where lr falls tenfold
    warmup_steps: CountOrZero = 500
    clip_norm: Positive = 10.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    flip: Fraction = 0.5
    distillation_weight: NotNegative = 1.0  # 0 = no distillation
    proposals_per_image: CountOrZero = 200
    ignore_top: CountOrZero = 0  # negatives on so many of the best CLIP proposals are ignored; 0 = paper
    novel_negatives: Flag = False  # background is told from the novel names, too; false = paper
    checkpoint_steps: Count = 500
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()  # beside log.jsonl


class EvaluateConfig(_Section):
    """Stage 4: zsd and gzsd on the val part."""

    batch_size: Count = 4
    proposals: Flag = True  # also measure the novel recall of the CLIP proposals on the val images


class Recipe(_Section):
    """One run. Read it with :func:`load_recipe`."""

    split: str | dict[str, tuple[str, ...]]  # a shipped name, or base and novel names
    teacher: str
    data: DataConfig
    seed: CountOrZero = 0
    prompt: Annotated[str, AfterValidator(_with_place_for_the_name)] = "a photo of a {name}"
    adapt: AdaptConfig = AdaptConfig()
    propose: ProposeConfig = ProposeConfig()
    detector: DetectorConfig = DetectorConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


# Keys of version 0.1 and their names now: an error in a recipe, accepted in a run folder and in a model folder.
RENAMED_KEYS = {
    "propose.shard_photos": "propose.shard_images",
    "detector.rois_per_photo": "detector.rois_per_image",
    "detector.detections_per_photo": "detector.detections_per_image",
    "train.proposals_per_photo": "train.proposals_per_image",
}


def load_recipe(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe from YAML and apply ``--set`` changes.

    Args:
        path: A YAML file, or the name of a shipped recipe.
        changes: texts like ``train.lr=0.01``; the value is read as YAML.

    Raises:
        RecipeError: the file is missing or not YAML, or keys or values are wrong (all told at once).
    """
    path = find_recipe(path)
    values, problems = read_values(path, changes)
    try:
        recipe = parse_recipe(values, str(path))
    except RecipeError as error:
        raise RecipeError([*problems, *error.problems]) from None
    if problems:
        raise RecipeError(problems)
    return recipe


def load_run_recipe(path: Path) -> Recipe:
    """Read the recipe.yaml of a run folder; keys that were renamed since it was written are accepted.

    Raises:
        RecipeError: the file is missing or is not a recipe.
    """
    values, _ = read_values(path)
    renamed = {
        name: renamed_keys(section, name) if isinstance(section, dict) else section for name, section in values.items()
    }
    return parse_recipe(renamed, str(path))


def renamed_keys(values: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Return ``values`` with the keys of version 0.1 renamed.

    Args:
        values: one section of a recipe, or values by full key where ``section`` is empty.
        section: its name.
    """
    prefix = f"{section}." if section else ""
    return {RENAMED_KEYS.get(prefix + key, prefix + key).removeprefix(prefix): value for key, value in values.items()}


def read_values(path: Path, changes: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Read a recipe's plain values, unchecked; also return what is wrong with ``changes``.

    Raises:
        RecipeError: the file is missing, not YAML, or no mapping.
    """
    try:
        values = _read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"Recipe {path} cannot be read: {error}. Give the path of a recipe (YAML).") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"Recipe {path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"Recipe {path} holds no keys; expected split, teacher, data and so on (see recipes/).")
    return values, [problem for change in changes if (problem := _apply(values, change))]


def parse_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """Check plain values against the recipe's types; ``where`` names their source in messages.

    Raises:
        RecipeError: keys or values are wrong (all told at once).
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        by_key: dict[str, list[Any]] = {}
        for entry in error.errors():
            by_key.setdefault(_key_of(values, entry), []).append(entry)
        raise RecipeError([f"{where}: {_problem(key, entries)}" for key, entries in by_key.items()]) from None


def save_recipe(recipe: Recipe, path: Path, notes: Mapping[str, Any] | None = None) -> None:
    """Write the resolved recipe as YAML; ``notes`` (versions, hardware) become comment lines above it."""
    header = "".join(f"# {key}: {' '.join(str(value).split())}\n" for key, value in (notes or {}).items())
    write_text(path, header + yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def recipe_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """Return every key a recipe may have, in order, as ``data.train.images``."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += recipe_keys(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: ``1e-4`` is a number, and a key given twice is a problem."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key_node.value} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # a SafeLoader: plain values only


def _apply(values: dict[str, Any], change: str) -> str:
    """Set one ``--set`` value in ``values``; return what is wrong with it, or an empty text."""
    key, equals, text = change.partition("=")
    if not equals or not all(key.split(".")):
        return f"--set {change}: expected KEY=VALUE, as in --set train.lr=0.01."
    try:
        value = _read_yaml(text)
    except yaml.YAMLError as error:
        return f"--set {change}: the value is not YAML: {error}"
    *parents, last = key.split(".")
    section: Any = values
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            return f"--set {change}: {parent} is a single value, it has no keys below it."
    section[last] = value
    return ""


def _key_of(values: Any, entry: Any) -> str:
    """Return the key a problem is about; pydantic's own words for types in between are left out."""
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
        hint = f"Did you mean {near[0]}?" if near else "Remove it, or see docs/recipes.md for the keys there are."
        return f"unknown key {key}. {hint}"
    if entry["type"] == "missing":
        return f"{key} is missing. Add it (see recipes/ for examples)."
    given = repr(entry["input"])
    shown = f"{given[:77]}..." if len(given) > 80 else given
    reasons = [entry["msg"].removeprefix("Value error, ").replace("Input should be", "expected") for entry in entries]
    hint = " Put names in quotes." if isinstance(entry["input"], bool) and key.startswith("split.") else ""
    return f"{key} = {shown}: {' or '.join(dict.fromkeys(reasons))}.{hint}"


def needs_targets(config: TrainConfig) -> bool:
    """Tell whether a training reads what stage propose wrote."""
    return bool(config.distillation_weight or config.ignore_top)
