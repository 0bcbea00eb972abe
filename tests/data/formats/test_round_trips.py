"""Boxes survive the way through other formats, whatever names, folders and sizes they have."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ezsd.commands.convert import convert
from ezsd.data.formats.coco import read_part
from ezsd.data.formats.recognize import open_dataset
from ezsd.recipe import Part

_NAMES = st.text("aé猫 '&<,-1", min_size=1, max_size=6).map(str.strip).filter(bool)
_STEMS = st.sampled_from(["a", "b", "a 1", "a -1", "ü 猫", "a.b", "train", "x%20y"])
_FOLDERS = st.sampled_from(["", "", "images/", "labels/", "f g/é/", "my.v1/"])
_FILES = st.tuples(_FOLDERS, _STEMS, st.sampled_from([".png", ".bmp", ".PNG"])).map("".join)
_PARTS_OF_ONE = st.tuples(*[st.floats(0, 1)] * 4)
_SETS = st.tuples(
    st.lists(_NAMES, min_size=1, max_size=3, unique=True),
    st.lists(
        st.tuples(_FILES, st.integers(8, 900), st.lists(_PARTS_OF_ONE, min_size=1, max_size=3)),
        min_size=1,
        max_size=4,
        unique_by=lambda image: image[0].lower(),
    ),
)


def _write(folder: Path, names: list[str], images: list[Any]) -> None:
    """Write a data set in the layout of Roboflow. The widths of its images are all different."""
    entries, annotations = [], list[dict[str, Any]]()
    for number, (name, height, boxes) in enumerate(images, start=1):
        width = 100 + 13 * number
        (folder / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (width, height)).save(folder / "train" / name)
        entries.append({"id": number, "file_name": name, "width": width, "height": height})
        for x, y, w, h in boxes:
            sides = (2 + w * (width - 2), 2 + h * (height - 2))  # boxes of one pixel at 0, 0 could be fractions
            box = [x * (width - sides[0]), y * (height - sides[1]), *sides]
            label = 1 + len(annotations) % len(names)
            annotations.append({"id": len(annotations), "image_id": number, "category_id": label, "bbox": box})
    categories = [{"id": label, "name": name} for label, name in enumerate(names, start=1)]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    (folder / "train" / "_annotations.coco.json").write_text(json.dumps(content))


def _boxes(folder: Path) -> dict[int, list[tuple[str, list[float]]]]:
    """Return names and corners by the width of the image, in order of the file."""
    source = open_dataset(folder).parts["train"]
    annotations = source.annotations or folder.with_suffix(".json")
    if source.content is not None:
        annotations.write_text(json.dumps(source.content))
    images = read_part(Part(images=source.images, annotations=annotations)).images_or_error(skip_bad=False)
    found = {image.width: [*zip(image.labels.tolist(), image.boxes.tolist(), strict=True)] for image in images}
    assert len(found) == len(images)
    return {width: [(images.names[label - 1], box) for label, box in rows] for width, rows in found.items()}


@pytest.mark.parametrize("way", [("yolo", "coco"), ("voc", "coco", "voc")])
@given(content=_SETS)
@settings(max_examples=25, deadline=None)
def test_no_box_is_lost_or_moved_on_the_way_through_other_formats(way: tuple[Any, ...], content: Any) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "0"
        _write(folder, *content)
        before = _boxes(folder)
        for number, to in enumerate(way, start=1):
            convert(folder, Path(root) / str(number), to)
            folder = Path(root) / str(number)
        after = _boxes(folder)
    assert after.keys() == before.keys()
    for width, rows in before.items():
        assert [name for name, _ in after[width]] == [name for name, _ in rows]
        assert np.allclose([box for _, box in after[width]], [box for _, box in rows], rtol=0, atol=0.001)
