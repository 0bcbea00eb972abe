"""The metrics that reports and comparisons show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ezsd.utils.format import byte_size, duration, number

Unit = Literal["share", "ap", "seconds", "count", "bytes"]


@dataclass(frozen=True)
class Figure:
    """A metric, shown as one row of a table.

    Attributes:
        key: The path of the value in metrics.json, such as ``gzsd.ap50_novel``.
        group: The heading above several rows.
        title: The label of the row.
        unit: share (0..1), ap (0..100), seconds, count or bytes.
    """

    key: str
    group: str
    title: str
    unit: Unit

    def shown(self, value: float | None, spread: float | None = None) -> str:
        """Format a value, and its standard deviation over several seeds if it is given."""
        text = self._one(value)
        return text if spread is None else f"{text} ± {self._one(spread)}"

    def difference(self, value: float | None, other: float | None) -> str:
        """Format ``value`` - ``other`` with its sign; empty if one of them was not measured."""
        if value is None or other is None:
            return ""
        text = self._one(abs(value - other))
        if text == self._one(0.0):
            return "±0"
        return f"+{text}" if value > other else f"\N{MINUS SIGN}{text}"

    def _one(self, value: float | None) -> str:
        if self.unit == "seconds":
            return duration(value)
        if self.unit == "bytes":
            return byte_size(value)
        return number(value, {"share": 3, "ap": 1, "count": 0}[self.unit])


_AP50 = (("ap50_novel", "AP50 novel"), ("ap50_base", "AP50 base"), ("ap50_all", "AP50 all"),
         ("harmonic_mean", "harmonic mean"))  # fmt: skip
_LVIS = (("ap", "AP"), ("ap_r", "AP rare"), ("ap_c", "AP common"), ("ap_f", "AP frequent"))
_GROUPS: tuple[tuple[str, str, Unit, tuple[tuple[str, str], ...]], ...] = (
    ("gzsd", "Base and novel names together (gzsd)", "ap", _AP50),
    ("zsd", "Novel names only, images with a novel object (zsd)", "ap", (("ap50", "AP50"), ("ap", "AP"))),
    ("zsd_all_images", "Novel names only, all images", "ap", (("ap50", "AP50"), ("ap", "AP"))),
    ("masks.gzsd", "Masks (gzsd)", "ap", _AP50),
    ("lvis", "LVIS rules, boxes", "ap", _LVIS),
    ("lvis_masks", "LVIS rules, masks", "ap", _LVIS),
    ("teacher", "Teacher: accuracy on val crops", "share", (
        ("accuracy_base_before", "base names, before adaptation"),
        ("accuracy_base_after", "base names, after adaptation"),
        ("accuracy_novel_before", "novel names, before adaptation"),
        ("accuracy_novel_after", "novel names, after adaptation"))),
    ("proposals", "Proposals: recall of novel boxes", "share", (
        ("novel_recall_at_100", "recall at 100 proposals"), ("novel_recall_at_300", "recall at 300 proposals"))),
    ("shown", "Shown to people: one name an object, above calibrated thresholds", "share", tuple(
        (f"{side}.{key}", f"{title}, {side} names")
        for side in ("novel", "base")
        for key, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"),
                           ("absent_names_seen", "absent names that are shown")))),
    ("exact_boxes", "Box head on exact boxes of objects", "share", (
        ("novel.called_background", "novel objects called background"),
        ("base.called_background", "base objects called background"))),
    ("false_alarms", "Box head on plain background", "share", (
        ("novel", "boxes given a novel name"), ("base", "boxes given a base name"))),
    ("cost", "Cost: time of each stage", "seconds", (
        ("adapt_s", "adapt"), ("propose_s", "propose"), ("train_s", "train"), ("evaluate_s", "evaluate"))),
    ("cost", "Cost: the teacher", "count", (
        ("teacher_crops", "crops through the teacher"), ("teacher_dense_passes", "dense passes of the teacher"))),
    ("cost", "Cost: the teacher", "bytes", (("target_bytes", "size of stored targets"),)),
)  # fmt: skip
FIGURES = tuple(
    Figure(f"{section}.{key}", group, title, unit) for section, group, unit, lines in _GROUPS for key, title in lines
)
OPTIONAL_PREFIXES = (
    "masks.",
    "lvis.",
    "lvis_masks.",
    "exact_boxes.",
    "false_alarms.",
    "shown.",
)  # metrics that not every run has
