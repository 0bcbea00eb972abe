"""Summarize per-category figures: headline metrics, counts, the CSV table and the printed summary."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Group
from rich.table import Table

from ezsd.data.samples import ImageSet
from ezsd.evaluation.metrics import Figures, harmonic_mean, mean_figures
from ezsd.run_metrics import Counts, EvaluateMetrics, GzsdMetrics, LvisMetrics, ZsdMetrics
from ezsd.utils.format import byte_size, counted, duration, number

SETTINGS = {
    "strict": " (novel names unknown while training)",
    "named": " (novel names known while training, no boxes)",
    "few_shot": " (novel names known while training, a few boxes of them)",
    "open": " (other data)",
}
ByCategory = dict[int, Figures]


def headline(gzsd: ByCategory, zsd: ByCategory, zsd_all_images: ByCategory, base: int) -> dict[str, Any]:
    """Summarize figures as ``gzsd``, ``zsd`` and ``zsd_all_images`` of metrics.json.

    Args:
        gzsd: Figures of all names by label.
        zsd: Figures of the novel names by label, on the images that hold a novel object.
        zsd_all_images: Figures of the novel names by label, on all images.
        base: Number of base names; labels up to it are base.
    """
    of_base = mean_figures(figures for label, figures in gzsd.items() if label <= base)
    of_novel = mean_figures(figures for label, figures in gzsd.items() if label > base)
    of_all = mean_figures(gzsd.values())
    return {
        "gzsd": GzsdMetrics(
            ap50_base=of_base.ap50,
            ap50_novel=of_novel.ap50,
            ap50_all=of_all.ap50,
            harmonic_mean=harmonic_mean(of_base.ap50, of_novel.ap50),
            ap_base=of_base.ap,
            ap_novel=of_novel.ap,
            ap_all=of_all.ap,
        ),
        "zsd": _of_zsd(zsd),
        "zsd_all_images": _of_zsd(zsd_all_images),
    }


def _of_zsd(figures: ByCategory) -> ZsdMetrics:
    mean = mean_figures(figures.values())
    return ZsdMetrics(ap50=mean.ap50, ap=mean.ap)


def by_frequency(figures: ByCategory, frequencies: Mapping[int, str]) -> LvisMetrics:
    """Return the AP of all, rare, common and frequent names of LVIS."""
    groups = {f"ap_{group}": [figures[label] for label, of in frequencies.items() if of == group] for group in "rcf"}
    return LvisMetrics(
        ap=mean_figures(figures.values()).ap,
        **{key: mean_figures(members).ap for key, members in groups.items()},
    )


def counts_of(images: ImageSet, base: int) -> Counts:
    """Count images, boxes (crowd boxes separately) and skipped invalid entries."""
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(image.labels[~image.crowd] for image in images)])
    return Counts(
        images=len(images),
        boxes_base=int((labels <= base).sum()),
        boxes_novel=int((labels > base).sum()),
        crowds=sum(int(image.crowd.sum()) for image in images),
        skipped=len(images.skipped),
    )


def per_category_csv(images: ImageSet, figures: ByCategory, base: int) -> str:
    """Return a CSV table with name, split (base or novel), boxes, ap, ap50, ar; figures not measured are empty."""
    boxes = Counter(label for image in images for label in image.labels[~image.crowd].tolist())
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", "split", "boxes", "ap", "ap50", "ar"])
    for label, name in enumerate(images.names, start=1):
        row = (figures[label].ap, figures[label].ap50, figures[label].ar)
        side = "base" if label <= base else "novel"
        table.writerow([name, side, boxes[label], *("" if value is None else round(value, 4) for value in row)])
    return text.getvalue()


def summary(metrics: EvaluateMetrics) -> Group:
    """Return a printable table of the metrics with their setting and cost."""
    gzsd, zsd = metrics.gzsd, metrics.zsd
    known = SETTINGS.get(metrics.setting, "")
    table = Table(title=f"Split {metrics.split}, setting {metrics.setting}{known}", title_justify="left")
    for column in ("AP in 0..100", "base", "novel", "all", "harmonic mean"):
        table.add_column(column, justify="right" if table.columns else "left")
    table.add_row("gzsd AP50", *map(_shown, (gzsd.ap50_base, gzsd.ap50_novel, gzsd.ap50_all, gzsd.harmonic_mean)))
    table.add_row("gzsd AP", *map(_shown, (gzsd.ap_base, gzsd.ap_novel, gzsd.ap_all)))
    table.add_row("zsd AP50", "", _shown(zsd.ap50))
    table.add_row("zsd AP", "", _shown(zsd.ap))
    lvis = (("LVIS boxes", metrics.lvis), ("LVIS masks", metrics.lvis_masks))
    lines = [_lvis_line(title, found) for title, found in lvis if found is not None]
    return Group(table, *lines, _cost_line(metrics))


def _lvis_line(title: str, found: LvisMetrics) -> str:
    groups = (("AP", found.ap), ("rare", found.ap_r), ("common", found.ap_c), ("frequent", found.ap_f))
    return f"{title}: {', '.join(f'{name} {_shown(value)}' for name, value in groups)}"


def _cost_line(metrics: EvaluateMetrics) -> str:
    counts, cost = metrics.counts, metrics.cost
    return (
        f"{counted(counts.images, 'image')}, {number(counts.boxes_base)} base and "
        f"{counted(counts.boxes_novel, 'novel box', 'novel boxes')}, {number(counts.skipped)} skipped; "
        "- = not measured\n"
        f"Cost: adapt {duration(cost.adapt_s)}, propose {duration(cost.propose_s)}, train {duration(cost.train_s)}; "
        f"teacher: {_counted(cost.teacher_crops, 'crop')}, "
        f"{_counted(cost.teacher_dense_passes, 'dense pass', 'dense passes')}, "
        f"targets: {byte_size(cost.target_bytes)}"
    )


def _counted(count: int | None, one: str, more: str = "") -> str:
    return counted(count, one, more) if count is not None else f"- {more or one + 's'}"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
