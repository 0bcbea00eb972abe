"""Annotations that are written again: nothing that is read from them is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ezsd.data.formats import coco_json
from ezsd.data.formats.coco_json import Annotations, as_annotations, read_annotations
from ezsd.data.formats.rewrite import divided, write_annotations

RLE = {"size": [4, 6], "counts": [3, 2, 19]}
BOX = {"id": 7, "image_id": 1, "category_id": 2, "bbox": [1, 2.5, 3, 4], "area": 12.3, "iscrowd": 0}
ENTRIES: dict[str, Any] = {
    "polygon": {**BOX, "segmentation": [[1, 2.25, 3, 4, 5, 6]]},
    "crowd": {**BOX, "iscrowd": 1, "segmentation": RLE},
    "text id": {**BOX, "id": "a", "image_id": "1"},
    "no area": {key: value for key, value in BOX.items() if key != "area"},
    "null": None,
    "box of text": {**BOX, "bbox": "none", "segmentation": [[1, 2, 3, 4, 5, 6]]},
    "iscrowd of text": {**BOX, "iscrowd": "maybe"},
    "no category": {"id": 3, "bbox": [1, 2, 3, 4]},
    "broken segmentation": {**BOX, "segmentation": ["x"]},
}


def _content(*entries: Any) -> dict[str, Any]:
    images = [{"id": 1, "file_name": "a.jpg", "license": 4}, {"id": 2, "file_name": "b.jpg"}]
    return {"images": images, "categories": [{"id": 2, "name": "cat"}], "annotations": list(entries)}


def _values(content: Annotations) -> list[Any]:
    segmentations = [
        [list(part) for part in entry] if isinstance(entry, list) else entry for entry in content.segmentations
    ]
    numbers = [values.tolist() for values in (content.boxes, content.areas, content.crowd)]
    columns = [content.ids, content.image_keys, content.category_keys, segmentations, content.odd]
    return [content.images, content.categories, columns, json.dumps(numbers)]  # as text, NaN is equal to itself


@pytest.mark.parametrize("kind", ENTRIES)
def test_what_is_written_is_read_again(kind: str, tmp_path: Path) -> None:
    content = as_annotations(_content(ENTRIES[kind], BOX))
    write_annotations(tmp_path / "a.json", content)
    assert _values(read_annotations(tmp_path / "a.json")) == _values(content)


def test_content_in_memory_is_as_that_of_a_file(tmp_path: Path) -> None:
    content = _content(*ENTRIES.values())
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert _values(as_annotations(content)) == _values(read_annotations(tmp_path / "a.json"))


def test_each_box_goes_with_its_image_and_an_unknown_image_stays_in_train() -> None:
    content = as_annotations(_content(BOX, {**BOX, "id": 8, "image_id": "2"}, {**BOX, "id": 9, "image_id": 5}, None))
    parts = divided(content, {2})
    assert [[entry["id"] for entry in part.images] for part in parts.values()] == [[1], [2]]
    assert parts["train"].ids == [7, 9, None] and parts["val"].ids == [8]
    assert parts["train"].odd == {2: None} and np.isnan(parts["train"].boxes[2]).all()


def test_a_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ezsd.commands.init import OwnFiles, make_recipe
    from tiny import make_tiny_coco
    from tiny_teacher import TEACHER

    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    coco, parsed = make_tiny_coco(tmp_path / "data"), list[int]()
    loads = json.loads

    def counted(text: str, **options: Any) -> Any:
        parsed.append(len(text))
        return loads(text, **options)

    monkeypatch.setattr(coco_json.json, "loads", counted)
    make_recipe(OwnFiles(dataset=coco.annotations.parent), ["bar"], tmp_path / "r.yaml", TEACHER, "cpu")
    assert parsed.count(coco.annotations.stat().st_size) == 1
