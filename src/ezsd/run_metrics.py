"""The contents of each metrics.json of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from ezsd.errors import ArtifactError
from ezsd.run_folder import Stage
from ezsd.utils.files import read_json, read_json_if_exists, write_json


class _Metrics(BaseModel):
    """Base of all metrics. Missing fields are None, unknown fields are ignored, and old field names are accepted."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that were set. None means "not measured"."""
        return self.model_dump(mode="json", exclude_unset=True)


def _renamed(new: str, old: str) -> Any:
    return Field(default=None, validation_alias=AliasChoices(new, old))


class ShareScore(_Metrics):
    """Accuracies with one share of the norm shift, in 0..1, of base names that are left out and that are trained on."""

    share: float
    left_out: float
    kept: float
    score: float


class ReadingScore(_Metrics):
    """Accuracy of the raw teacher on base boxes with one dense reading, in 0..1."""

    reading: str
    accuracy: float


class PowerScore(_Metrics):
    """Recall of boxes of left-out base names by the proposals with one size power, in 0..1."""

    power: float
    recall: float


class AdaptMetrics(_Metrics):
    """Metrics of stage adapt. Accuracies are in 0..1, before and after the adaptation.

    ``accuracy_base`` and ``accuracy_novel`` are measured with all names as candidates, ``accuracy_novel_among_novel``
    with novel names only. ``share`` is the share of the norm shift that is kept; ``share_table`` and ``share_seconds``
    are set if it was chosen by leaving base names out.
    """

    accuracy_base_before: float | None = None
    accuracy_base_after: float | None = None
    accuracy_novel_before: float | None = None
    accuracy_novel_after: float | None = None
    accuracy_novel_among_novel_before: float | None = None
    accuracy_novel_among_novel_after: float | None = None
    val_crops: int | None = None
    crops: int | None = None
    steps: int | None = None
    share: float | None = None
    share_table: tuple[ShareScore, ...] | None = None
    share_seconds: float | None = None
    seconds: float | None = None


class ProposeMetrics(_Metrics):
    """Metrics of stage propose: counts, teacher passes, bytes, and seconds summed over all calls.

    The tables and their seconds are set if ``dense_reading`` or ``size_power`` was chosen by leaving base names out.
    """

    images: int | None = _renamed("images", "photos")
    grid_boxes: int | None = None
    proposals: int | None = None
    base_boxes: int | None = None
    crops: int | None = None
    dense_passes: int | None = None
    seconds: float | None = None
    rpn_seconds: float | None = None
    dense_reading: str | None = None
    reading_table: tuple[ReadingScore, ...] | None = None
    reading_seconds: float | None = None
    size_power: float | None = None
    power_table: tuple[PowerScore, ...] | None = None
    power_seconds: float | None = None
    bytes: int | None = None


class TrainMetrics(_Metrics):
    """Metrics of a training. Seconds are summed over all calls. ``best_step`` is None without validation.

    ``images`` counts the images of all steps. ``train_images`` and ``train_boxes`` (without crowds) count the data that
    stage train learned from.
    """

    steps: int | None = None
    images: int | None = _renamed("images", "photos")
    seconds: float | None = None
    images_per_second: float | None = _renamed("images_per_second", "photos_per_second")
    best_step: int | None = None
    train_images: int | None = None
    train_boxes: int | None = None


class GzsdMetrics(_Metrics):
    """AP in 0..100 with base and novel names detected together."""

    ap50_base: float | None = None
    ap50_novel: float | None = None
    ap50_all: float | None = None
    harmonic_mean: float | None = None
    ap_base: float | None = None
    ap_novel: float | None = None
    ap_all: float | None = None


class ZsdMetrics(_Metrics):
    """AP in 0..100 with only novel names detected.

    ``zsd`` counts the images that hold a novel object, as the literature does; ``zsd_all_images`` counts every image.
    """

    ap50: float | None = None
    ap: float | None = None


class LvisMetrics(_Metrics):
    """AP in 0..100 by the LVIS rules, of all, rare, common and frequent names.

    ``lvis`` is the AP of boxes, ``lvis_masks`` that of masks, which the literature reports.
    """

    ap: float | None = None
    ap_r: float | None = None
    ap_c: float | None = None
    ap_f: float | None = None


def _with_both_counts(values: Any) -> Any:
    """Move ``zsd`` of files that have only one count: it was measured on all images."""
    if isinstance(values, dict) and "zsd" in values and "zsd_all_images" not in values:
        values = {**values, "zsd_all_images": values["zsd"]}
        del values["zsd"]
    return values


class Headline(_Metrics):
    """AP of the two protocols, gzsd and zsd."""

    gzsd: GzsdMetrics = GzsdMetrics()
    zsd: ZsdMetrics = ZsdMetrics()
    zsd_all_images: ZsdMetrics = ZsdMetrics()

    _old_files = model_validator(mode="before")(_with_both_counts)


class ProposalMetrics(_Metrics):
    """Recall of novel boxes by the proposals, in 0..1."""

    novel_recall_at_100: float | None = None
    novel_recall_at_300: float | None = None


class TeacherMetrics(_Metrics):
    """Accuracy of the teacher on validation crops, in 0..1."""

    accuracy_base_before: float | None = None
    accuracy_base_after: float | None = None
    accuracy_novel_before: float | None = None
    accuracy_novel_after: float | None = None


class ExactBoxCounts(_Metrics):
    """What the box head says on the exact boxes of val objects: counts, and the share called background, in 0..1."""

    right: int | None = None
    other_name: int | None = None
    background: int | None = None
    called_background: float | None = None


class ExactBoxMetrics(_Metrics):
    """What the box head says on the exact boxes of base and of novel objects."""

    base: ExactBoxCounts = ExactBoxCounts()
    novel: ExactBoxCounts = ExactBoxCounts()


class FalseAlarmMetrics(_Metrics):
    """Random boxes that touch no object, and the shares of them that get a base and a novel name, in 0..1."""

    boxes: int | None = None
    base: float | None = None
    novel: float | None = None


class ShownSide(_Metrics):
    """Precision, recall and F1 (IoU of at least 0.5) of the detections that people see, in 0..1.

    ``absent_names_seen`` is the share of pairs of an image and a name without an object in it for which the name is
    shown.
    """

    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    absent_names_seen: float | None = None


class ShownMetrics(_Metrics):
    """What people see: one name for each object, above thresholds that were chosen on the other half of the images."""

    base: ShownSide = ShownSide()
    novel: ShownSide = ShownSide()
    novel_boxes_used: bool | None = None


class Counts(_Metrics):
    """Counts of validation images, boxes, crowd boxes, and skipped (invalid) images and boxes."""

    images: int | None = _renamed("images", "photos")
    boxes_base: int | None = None
    boxes_novel: int | None = None
    crowds: int | None = None
    skipped: int | None = None


class Cost(_Metrics):
    """Cost of a run: seconds of the stages, teacher passes, and bytes of the target store."""

    adapt_s: float | None = None
    propose_s: float | None = None
    train_s: float | None = None
    teacher_crops: int | None = None
    teacher_dense_passes: int | None = None
    target_bytes: int | None = None


class EvaluateMetrics(_Metrics):
    """Metrics of stage evaluate. Optional sections are None if they were not measured."""

    setting: str = ""
    split: str = ""
    gzsd: GzsdMetrics = GzsdMetrics()
    zsd: ZsdMetrics = ZsdMetrics()
    zsd_all_images: ZsdMetrics = ZsdMetrics()
    proposals: ProposalMetrics = ProposalMetrics()
    teacher: TeacherMetrics = TeacherMetrics()
    counts: Counts = Counts()
    cost: Cost = Cost()
    exact_boxes: ExactBoxMetrics | None = None
    false_alarms: FalseAlarmMetrics | None = None
    shown: ShownMetrics | None = None
    lvis: LvisMetrics | None = None
    lvis_masks: LvisMetrics | None = None
    masks: Headline | None = None

    _old_files = model_validator(mode="before")(_with_both_counts)


Metrics = AdaptMetrics | ProposeMetrics | TrainMetrics | EvaluateMetrics
Kind = TypeVar("Kind", bound=_Metrics)
METRICS: dict[Stage, type[Metrics]] = {
    "adapt": AdaptMetrics,
    "propose": ProposeMetrics,
    "train": TrainMetrics,
    "evaluate": EvaluateMetrics,
}


def read_metrics(path: Path, kind: type[Kind]) -> Kind:
    """Read a metrics.json.

    Raises:
        ArtifactError: The file is missing, is not JSON, or contains values of the wrong type.
    """
    return _parsed(path, kind, read_json(path))


def read_metrics_if_exist(path: Path, kind: type[Kind]) -> Kind:
    """Read a metrics.json. If the file does not exist, return metrics without values."""
    return _parsed(path, kind, read_json_if_exists(path))


def write_metrics(path: Path, metrics: _Metrics) -> None:
    """Write a metrics.json; numbers are rounded to four decimals."""
    write_json(path, _rounded(metrics.to_json()))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _parsed(path: Path, kind: type[Kind], values: Any) -> Kind:
    try:
        return kind.model_validate(values)
    except ValueError as error:
        raise ArtifactError(f"{path} is not a metrics file: {error}. Remove it and run the stage again.") from None
