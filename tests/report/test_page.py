"""The report: one file without external resources, with all metrics, missing values marked, and failures first."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ezsd.cli import app
from ezsd.data.formats.coco import load_images
from ezsd.errors import ArtifactError
from ezsd.report.page import is_current, remove_report, write_report
from ezsd.run_folder import RunFolder
from finished_run import make_finished_run
from tiny import CATEGORIES, SPLIT, TinyCoco, make_tiny_coco


@pytest.fixture
def coco(tmp_path: Path) -> TinyCoco:
    return make_tiny_coco(tmp_path / "data")


@pytest.fixture
def make(tmp_path: Path, coco: TinyCoco) -> Callable[..., Path]:
    def made(name: str = "run", **changes: Any) -> Path:
        return make_finished_run(tmp_path / name, coco, **changes)

    return made


class _Page(HTMLParser):
    """The resources, tags, ids and texts of a page, and the number of its SVG images without a label."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.unlabeled = 0
        self.texts: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.loads += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "srcset", "data")]
        self.unlabeled += tag == "svg" and not (values.get("aria-label") or values.get("aria-hidden"))
        self.ids += [values["id"] or ""] if "id" in values else []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def _page(folder: Path, baseline: Path | None = None) -> _Page:
    return _Page(write_report(folder, baseline).read_text(encoding="utf-8"))


def _cards(folder: Path) -> list[str]:
    """Return the names of the images in the gallery, in order."""
    text = write_report(folder).read_text(encoding="utf-8")
    gallery = text[text.index('<section id="gallery">') : text.index('<section id="proposals">')]
    return re.findall(r"<h4>(.+?)</h4>", gallery)


def test_report_is_one_file_without_external_resources(make: Callable[..., Path]) -> None:
    folder = make()
    page = _page(folder, make("other", train__lr=0.5))
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(load.startswith(("#", "data:image/jpeg;base64,")) for load in page.loads)
    assert sum(load.startswith("data:") for load in page.loads) > 4
    text = (folder / "report.html").read_text()
    assert "http" not in text and "@import" not in text and "url(" not in text
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    assert page.unlabeled == 0
    assert len(page.ids) == len(set(page.ids))
    assert {load[1:] for load in page.loads if load.startswith("#")} <= set(page.ids)


def test_report_shows_run_details_and_metrics(make: Callable[..., Path]) -> None:
    text = _page(make()).text
    for part in (
        "setting named (novel names known while training, no boxes)", "AP50 novel names 12.5", "1,200", "2.5 MB",
        "torch 2.11.0", "1 x cpu", "2026-01-02", "recall at 300 proposals not measured", "2 base and 2 novel names",
        "seed 0", "20 steps, 40 images, 8.0 images/s", "score_threshold",
    ):  # fmt: skip
        assert part in text, part


def test_report_shows_the_baseline_and_the_difference(make: Callable[..., Path]) -> None:
    text = _page(make(), make("plain", ap50_novel=10.0, setting="strict", train__lr=0.5)).text
    assert "baseline 10.0" in text and "+2.5" in text
    assert "The runs have different settings" in text
    assert "train.lr" in text
    assert "Baseline: plain (setting strict)" in text


def test_baseline_with_other_images_or_names_is_refused(make: Callable[..., Path]) -> None:
    other = make("other", split={"base": ["circle"], "novel": ["bar"]})
    with pytest.raises(ArtifactError, match="cannot be the baseline"):
        write_report(make(), other)


def test_category_names_are_escaped(tmp_path: Path) -> None:
    coco = make_tiny_coco(tmp_path / "data")
    text = json.dumps(coco.content).replace('"circle"', '"<b>&circle"')
    coco.annotations.write_text(text)
    folder = make_finished_run(tmp_path / "run", coco, split={"base": ["<b>&circle", "square"], "novel": SPLIT.novel})
    csv = folder / "evaluate/per_category.csv"
    csv.write_text(csv.read_text().replace("circle", "<b>&circle"))
    page = _page(folder)
    assert "b" not in page.tags
    assert "<b>&circle 0.90" in page.text


def test_missing_values_are_marked(make: Callable[..., Path]) -> None:
    folder = make(ap50_novel=None)
    for name in ("adapt/confusion.json", "targets/index.json", "train/log.jsonl"):
        (folder / name).unlink()
    page = _page(folder)
    assert "AP50 novel names not measured" in page.text
    assert "Confusion of names: not measured" in page.text
    assert "Training losses not measured" in page.text
    assert "does not use proposals" in page.text
    assert f"{SPLIT.names[-1]} not measured: no val boxes" in page.text


def test_validation_is_a_curve_of_its_own(make: Callable[..., Path]) -> None:
    folder = make()
    assert "validation: AP50" not in _page(folder).text
    results = [{"step": 8, "ap50_base": 31.25}, {"step": 16, "ap50_base": 47.5}]
    (folder / "train/validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in results))
    assert not is_current(RunFolder(folder))
    assert "validation: AP50 of base names 31.25 → 47.50 50 0 0 16 steps" in _page(folder).text


def test_report_without_images_still_shows_metrics(make: Callable[..., Path], coco: TinyCoco) -> None:
    folder = make()
    for path in coco.images.iterdir():
        path.unlink()
    page = _page(folder)
    assert "The val images cannot be read" in page.text
    assert "The val images cannot be shown" in page.text and "contains none of the 8 images" in page.text
    assert "AP50 novel names 12.5" in page.text


def test_disabled_adaptation_has_no_values_after_adaptation(make: Callable[..., Path]) -> None:
    folder = make(adapt__enabled=False)
    expected = json.loads((folder / "adapt/confusion.json").read_text())
    (folder / "adapt/confusion.json").write_text(json.dumps({**expected, "after": None}))
    text = _page(folder).text
    assert "Adaptation is disabled in this recipe" in text
    matrices = text.partition("Confusion matrix of all names")[2]
    assert "before adaptation" in matrices and "after adaptation" not in matrices


def test_confusions_of_the_teacher_are_listed_before_and_after(make: Callable[..., Path]) -> None:
    text = _page(make()).text
    circle, square, triangle, bar = SPLIT.names
    assert f"{circle} {bar} 10 6 0" in text  # true name, predicted name, crops, before, after
    assert f"{triangle} {square}" not in text  # too few crops


def test_gallery_shows_the_most_failures_first(make: Callable[..., Path], coco: TinyCoco) -> None:
    cards = _cards(make())
    names, novel = {}, set(SPLIT.novel)
    for image in load_images(coco.part(), SPLIT.names).images:
        missed = sum(SPLIT.names[label - 1] in novel for label in image.labels[~image.crowd].tolist())
        names[image.path.name] = 2 * missed + (2 if image.image_id == 11 else 0)  # one false detection of a novel name
    failures = [names[card] for card in cards]
    assert failures == sorted(failures, reverse=True)
    assert failures[0] > failures[-1]


def test_gallery_shows_one_name_an_object_above_the_calibrated_thresholds(make: Callable[..., Path]) -> None:
    folder = make()
    path = folder / "evaluate/detections.json"
    detections = json.loads(path.read_text())
    entry = next(each for each in detections if each["image_id"] == 11 and each["score"] == 0.9)
    key, name = next((key, name) for key, name in CATEGORIES.items() if name in SPLIT.novel)
    twin = {**entry, "category_id": key, "score": 0.71}  # a second name of the same object
    low = {**twin, "bbox": [30.0, 30.0, 9.0, 9.0], "score": 0.21}
    path.write_text(json.dumps([*detections, twin, low]))
    text = _gallery(folder)
    assert "0.90" in text and f"{name} 0.71" not in text and f"{name} 0.21" not in text
    assert "a threshold of 0.3" in text
    thresholds = {"other": 0.95, "names": {name: 0.15}, "second_opinion": "none"}
    (folder / "train/model").mkdir(exist_ok=True)
    (folder / "train/model/thresholds.json").write_text(json.dumps(thresholds))
    assert not is_current(RunFolder(folder))
    text = _gallery(folder)
    assert f"{name} 0.71" in text and f"{name} 0.21" in text and "0.90" not in text
    assert "the calibrated thresholds" in text


def _gallery(folder: Path) -> str:
    text = write_report(folder).read_text(encoding="utf-8")
    return text[text.index('<section id="gallery">') : text.index('<section id="proposals">')]


def test_found_missed_and_false_are_counted_for_all_images(make: Callable[..., Path], coco: TinyCoco) -> None:
    text = _page(make()).text
    boxes = [entry for entry in coco.content["annotations"] if not entry["iscrowd"]]
    sides = {side: [CATEGORIES[entry["category_id"]] in names for entry in boxes]
             for side, names in (("novel", SPLIT.novel), ("base", SPLIT.base))}  # fmt: skip
    assert f"novel 0 {sum(sides['novel'])} 1 0.000 0.000 0.000" in text  # then precision, recall, F1
    assert f"base {sum(sides['base'])} 0 0 1.000 1.000 1.000" in text


def test_errors_are_split_by_type(make: Callable[..., Path], coco: TinyCoco) -> None:
    folder = make()
    text = _page(folder).text
    assert "AP50 is 0.0 for novel and 100.0 for base names" in text
    rows = text.partition("What AP50 is lost to")[2].partition("Detections with a score")[0]
    assert "background box away from all objects (IoU below 0.1) +0.0 +0.0 1 0" in rows
    path = folder / "evaluate/detections.json"
    found = json.loads(path.read_text())
    first = (found[0]["image_id"], found[0]["category_id"])  # of a base object
    left = [entry for entry in found if (entry["image_id"], entry["category_id"]) != first]
    path.write_text(json.dumps(left))
    missed = _page(folder).text.partition("missed objects that no detection finds ")[2].split()
    novel = sum(CATEGORIES[entry["category_id"]] in SPLIT.novel for entry in coco.content["annotations"])
    assert missed[0] == "+50.0"  # one of the two novel names has no detections, the other only a false one
    assert float(missed[1]) > 1 and missed[1].startswith("+")
    assert missed[2:4] == [str(novel), str(len(found) - len(left))]
    assert "Names on the exact boxes of objects not measured" in text
    path = folder / "evaluate/metrics.json"
    metrics = json.loads(path.read_text())
    metrics["exact_boxes"] = {
        "base": {"right": 8, "other_name": 2, "background": 1, "called_background": 0.09},
        "novel": {"right": 1, "other_name": 2, "background": 5, "called_background": 0.625},
    }
    metrics["false_alarms"] = {"boxes": 1234, "base": 0.25, "novel": 0.0}
    path.write_text(json.dumps(metrics))
    text = _page(folder).text
    assert "novel 8 0.125 0.250 0.625" in text
    assert "base 11 0.727 0.182 0.091" in text
    assert "Of 1,234 random boxes that touch no object, a share of 0.000 has a novel name and 0.250 a base name" in text
    assert "novel objects called background 0.625" in text  # in the table of metrics


def test_names_that_are_shown_are_listed_with_their_errors(make: Callable[..., Path]) -> None:
    folder = make()
    assert "Names that are shown" not in _page(folder).text
    side = {"precision": 0.75, "recall": 0.5, "f1": 0.6, "absent_names_seen": 0.125}
    path = folder / "evaluate/metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "shown": {"base": side, "novel": side}}))
    matrix = {"names": SPLIT.names, "base": 2, "counts": [[0, 3, 4], [1, 1, 9], [2, 0, 7], [2, 1, 5]]}
    (folder / "evaluate/confusion.json").write_text(json.dumps(matrix))
    text = _page(folder).text
    assert "square nothing 7 square circle 5 no object triangle 4" in text
    assert "absent names that are shown, novel names 0.125" in text


def test_report_without_novel_boxes_has_no_gains_for_novel_names(make: Callable[..., Path], coco: TinyCoco) -> None:
    folder = make()
    novel = [key for key, name in CATEGORIES.items() if name in SPLIT.novel]
    coco.content["annotations"] = [e for e in coco.content["annotations"] if e["category_id"] not in novel]
    coco.save()
    text = _page(folder).text
    assert "AP50 is not measured for novel and 100.0 for base names" in text
    assert "background box away from all objects (IoU below 0.1) not measured +0.0 1 0" in text


def test_proposals_have_one_color_per_name(make: Callable[..., Path]) -> None:
    folder = make()
    text = write_report(folder).read_text()
    section = text[text.index('<section id="proposals">') : text.index('<section id="teacher">')]
    hues = set(re.findall(r"--mark:hsl\((\d+)", section))
    assert len(hues) == 1  # all proposals of the run have one name
    assert f"{SPLIT.names[2]} 0.75" in section


def test_table_that_was_cut_off_is_a_message(make: Callable[..., Path]) -> None:
    path = RunFolder(make()).per_category
    path.write_text(path.read_text()[:-12])
    with pytest.raises(ArtifactError, match=r"per_category\.csv cannot be read"):
        write_report(path.parents[1])


def test_report_is_current_until_the_run_changes(make: Callable[..., Path]) -> None:
    folder = make()
    assert not is_current(RunFolder(folder))
    write_report(folder, make("other", train__lr=0.5))
    assert is_current(RunFolder(folder))
    metrics = folder / "train/metrics.json"
    metrics.write_text(metrics.read_text().replace("20", "30"))
    assert not is_current(RunFolder(folder))


def test_user_report_html_is_neither_overwritten_nor_removed(make: Callable[..., Path]) -> None:
    folder = make()
    (folder / "report.html").write_text("mine")
    with pytest.raises(ArtifactError, match="was not written by ezsd"):
        write_report(folder)
    remove_report(RunFolder(folder))
    assert (folder / "report.html").read_text() == "mine"


def test_report_command_rejects_an_unfinished_run(make: Callable[..., Path]) -> None:
    folder = make()
    assert CliRunner().invoke(app, ["report", str(folder)]).exit_code == 0
    (folder / "evaluate/done.json").unlink()
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 2
    assert "Run: ezsd evaluate" in result.stderr
