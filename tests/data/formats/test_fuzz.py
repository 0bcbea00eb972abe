"""Arbitrary annotation files end in a message or a result: never another exception, never a file outside the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ezsd.data.formats.coco import coco_ground_truth, read_part
from ezsd.data.formats.lvis import read_rules
from ezsd.data.formats.recognize import DataSet, open_dataset
from ezsd.errors import DataError
from ezsd.recipe import Part

_SETTINGS = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
_NUMBERS = st.one_of(
    st.integers(-5, 70), st.floats(), st.sampled_from([2**53 + 1, -(2**70), 10**400, 1e308, 0, 1, "1", "nan", "1e999"])
)
_NAMES = ["a.png", "../secret.png", "/etc/hostname", "a\0b.png", "\ud800.png", "x" * 300, "..\\secret.png",
          "%2e%2e/secret.png", "cat", "", ".", "..", "//a.png"]  # fmt: skip
_TEXT = st.text(max_size=6) | st.sampled_from(_NAMES)
_ANY = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


def _mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(good, good, good, _ANY)


def _entries(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    full = st.fixed_dictionaries({key: _mostly(value) for key, value in keys.items()})
    partial = st.fixed_dictionaries({}, optional={key: _mostly(value) for key, value in keys.items()})
    return st.lists(st.one_of(full, full, partial, _ANY), max_size=5)


_IDS = st.integers(0, 3) | st.sampled_from(["1", 1.0, 2**60])
_POLYGONS = st.lists(st.lists(st.floats(0, 40), min_size=4, max_size=8), max_size=2)
_COCO = st.fixed_dictionaries(
    {
        "images": _entries(
            id=_IDS, file_name=st.sampled_from(["a.png", "b.png"]), width=st.just(40), height=st.just(20)
        ),
        "annotations": _entries(
            id=_IDS, image_id=_IDS, category_id=_IDS, iscrowd=st.integers(0, 1), segmentation=_POLYGONS,
            bbox=st.tuples(st.floats(-1, 20), st.floats(-1, 10), st.floats(0, 20), st.floats(0, 10)).map(list),
        ),
        "categories": _entries(id=_IDS, name=st.sampled_from(["cat", "dog"])),
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz")
    (root / "set" / "images").mkdir(parents=True)
    (root / "set" / "labels").mkdir()
    for name in ("secret.png", "set/images/a.png", "set/images/b.png"):
        Image.new("RGB", (40, 20)).save(root / name)
    return root / "set"


def _check(images: Path, annotations: Path) -> None:
    """Read a COCO file: all images must be inside the folder, all boxes inside their images."""
    part = Part(images=images, annotations=annotations)
    try:
        found = read_part(part)
        found.images_or_error(skip_bad=False)
    except DataError as error:
        assert error.problems and all(problem.strip() for problem in error.problems)
        return
    for image in found.images:
        assert image.path.resolve().is_relative_to(images.resolve())
        assert (image.boxes[:, 2:] > image.boxes[:, :2]).all() and (image.boxes >= 0).all()
        assert (image.boxes[:, 2] <= image.width).all() and (image.boxes[:, 3] <= image.height).all()
        assert 0 <= image.image_id <= 2**53
    json.dumps(coco_ground_truth(found.images), allow_nan=False)
    read_rules(annotations, found.images.names)


@given(_COCO)
@_SETTINGS
def test_any_coco_file_is_read_or_refused(folder: Path, content: Any) -> None:
    path = folder.parent / "fuzz.json"
    path.write_text(json.dumps(content))
    _check(folder / "images", path)


@given(st.binary(max_size=60) | _ANY.map(lambda value: json.dumps(value).encode()))
@_SETTINGS
def test_any_bytes_as_a_json_file_are_refused(folder: Path, content: bytes) -> None:
    path = folder.parent / "bytes.json"
    path.write_bytes(content)
    _check(folder / "images", path)


def _open(folder: Path) -> DataSet | None:
    try:
        return open_dataset(folder)
    except DataError as error:
        assert error.problems and all(problem.strip() for problem in error.problems)
        return None


_LINE = st.lists(st.one_of(st.integers(-1, 3), st.floats(0, 1), _NUMBERS), max_size=9).map(
    lambda values: " ".join(map(str, values))
)
_YAML = st.fixed_dictionaries(
    {"names": _mostly(st.just(["cat", "dog"])), "train": _mostly(st.just("images"))},
    optional={"val": _ANY, "path": _ANY, "kpt_shape": _ANY},
)


@given(_YAML, st.lists(_LINE, max_size=4).map("\n".join) | st.text(max_size=30))
@_SETTINGS
def test_any_yolo_files_are_read_or_refused(folder: Path, values: Any, lines: str) -> None:
    (folder / "data.yaml").write_text(json.dumps(values))
    (folder / "labels" / "a.txt").write_text(lines, encoding="utf-8", errors="surrogatepass")
    try:
        _check_sources(_open(folder), folder)
    finally:
        (folder / "data.yaml").unlink()


_NAMED = st.sampled_from(["images", "train.txt", "../secret.png", "/etc/hostname", "", "a\0b", "images/a.png"])
_DATA = st.dictionaries(st.sampled_from(["names", "train", "valid", "test", ""]), _NAMED | st.text(max_size=8))


@given(
    _DATA, st.text(max_size=20) | st.just("cat\ndog"), st.lists(_NAMED).map("\n".join), st.lists(_LINE).map("\n".join)
)
@_SETTINGS
def test_any_darknet_files_are_read_or_refused(
    folder: Path, values: dict[str, str], names: str, listed: str, lines: str
) -> None:
    settings = "\n".join(f"{key} = {value}" for key, value in values.items())
    written = {"obj.data": settings, "obj.names": names, "train.txt": listed, "labels/a.txt": lines}
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        _check_sources(_open(folder), folder)
    finally:
        for name in ("obj.data", "obj.names", "train.txt"):
            (folder / name).unlink()


_VALUE = st.one_of(_NUMBERS.map(str), st.text("<>&;ab1.\\/", max_size=8), st.sampled_from(["../secret.png", "a.png"]))
_OBJECT = st.tuples(*[_VALUE] * 6).map(
    lambda v: (
        f"<object><name>{v[0]}</name><difficult>{v[5]}</difficult><bndbox><xmin>{v[1]}</xmin><ymin>{v[2]}</ymin>"
        f"<xmax>{v[3]}</xmax><ymax>{v[4]}</ymax></bndbox></object>"
    )
)


@given(_VALUE, st.lists(_OBJECT, max_size=3).map("".join), st.sampled_from(["", "<!DOCTYPE a [<!ENTITY b 'c'>]>"]))
@_SETTINGS
def test_any_voc_file_is_read_or_refused(folder: Path, name: str, objects: str, head: str) -> None:
    path = folder / "images" / "a.xml"
    path.write_text(f"{head}<annotation><filename>{name}</filename>{objects}</annotation>")
    try:
        _check_sources(_open(folder), folder)
    finally:
        path.unlink()


def _check_sources(found: DataSet | None, folder: Path) -> None:
    for source in [] if found is None else found.parts.values():
        path = folder.parent / "converted.json"
        path.write_text(json.dumps(source.content))
        assert source.images.resolve().is_relative_to(folder.resolve())
        _check(source.images, path)


_POINTS = st.lists(st.lists(st.floats(0, 40) | _NUMBERS, min_size=2, max_size=2), max_size=4)
_KINDS = st.sampled_from(["rectangle", "polygon", "circle", "mask", "point"])
_LABELME = st.fixed_dictionaries(
    {"shapes": _mostly(_entries(label=st.just("cat"), points=_POINTS, shape_type=_KINDS))},
    optional={"imagePath": _TEXT, "imageWidth": _mostly(st.just(40)), "imageHeight": _mostly(st.just(20))},
)


@given(_LABELME)
@_SETTINGS
def test_any_labelme_file_is_read_or_refused(folder: Path, content: Any) -> None:
    path = folder / "images" / "a.json"
    path.write_text(json.dumps(content))
    try:
        _check_sources(_open(folder), folder)
    finally:
        path.unlink()


_TAGS = st.sampled_from(["box", "polygon", "ellipse", "mask", "points", "skeleton", "a"])
_KEYS = ["label", "xtl", "ytl", "xbr", "ybr", "points", "cx", "cy", "rx", "ry", "rotation", "left", "top", "width",
         "height"]  # fmt: skip
_POINT_TEXT = st.lists(st.tuples(st.floats(0, 40), st.floats(0, 20)), max_size=4).map(
    lambda points: ";".join(f"{x},{y}" for x, y in points)
)
_SHAPE = st.tuples(_TAGS, st.dictionaries(st.sampled_from(_KEYS), _VALUE | _POINT_TEXT, min_size=4))
_CVAT_IMAGE = st.tuples(_VALUE | st.just("a.png"), st.sampled_from(["", "train", "../x"]), st.lists(_SHAPE, max_size=3))


def _cvat_element(tag: str, values: dict[str, str], inner: str = "") -> str:
    return f"<{tag} {' '.join(f'{key}={quoteattr(value)}' for key, value in values.items())}>{inner}</{tag}>"


@given(st.lists(_CVAT_IMAGE, max_size=3))
@_SETTINGS
def test_any_cvat_file_is_read_or_refused(folder: Path, images: list[Any]) -> None:
    path = folder / "annotations.xml"
    texts = [
        _cvat_element("image", {"name": name, "subset": subset}, "".join(_cvat_element(*shape) for shape in shapes))
        for name, subset, shapes in images
    ]
    path.write_text(f"<annotations>{''.join(texts)}</annotations>")
    try:
        _check_sources(_open(folder), folder)
    finally:
        path.unlink()


@pytest.mark.parametrize("depth", [500, 100_000])
@pytest.mark.parametrize("name, text", [
    ("images/a.json", '{"imagePath": "a.png", "shapes": [*]}'),
    ("coco.json", '{"images": [*], "annotations": [*], "categories": [*]}'),
    ("data.yaml", "train: images\nnames: [*]\n"),
    ("images/a.xml", "<annotation><filename>a.png</filename>#</annotation>"),
    ("annotations.xml", '<annotations><image name="a.png">#</image></annotations>'),
])  # fmt: skip
def test_deep_nesting_is_read_or_refused(folder: Path, name: str, text: str, depth: int) -> None:
    path = folder / name
    path.write_text(text.replace("*", "[" * depth + "]" * depth).replace("#", "<a>" * depth + "</a>" * depth))
    try:
        found = _open(folder)
        _check_sources(found if found is None or found.parts["train"].content else None, folder)
        if name == "coco.json":
            _check(folder / "images", path)
    finally:
        path.unlink()
