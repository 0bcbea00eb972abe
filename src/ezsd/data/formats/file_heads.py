"""What a file is, from its beginning and its name; files in formats that are not read are named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_HEAD = 65536  # bytes
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_OTHERS = {
    ".csv": "a table (CSV)", ".tsv": "a table (TSV)", ".xlsx": "a table (Excel)", ".jsonl": "JSON lines",
    ".ndjson": "JSON lines", ".manifest": "JSON lines", ".tfrecord": "TFRecord", ".tfrecords": "TFRecord",
    ".parquet": "Parquet", ".h5": "HDF5", ".hdf5": "HDF5", ".mat": "a MATLAB file", ".pkl": "a pickle",
    **dict.fromkeys(_ARCHIVES, "an archive"),
}  # fmt: skip
OTHER_SUFFIXES = tuple(_OTHERS)
_LABEL_STUDIO = "a file of Label Studio in its own JSON"
_OTHER_JSON = {
    _LABEL_STUDIO: re.compile(r'^\[\{.*("from_name":|"rectanglelabels":)'),
    "a project of VoTT": re.compile(r'"asset":\{'),
    "a project of the VGG Image Annotator (VIA)": re.compile(r'"_via_|"shape_attributes":|"regions":[\[{]'),
    "JSON of Supervisely": re.compile(r'"classTitle":'),
    "JSON of Labelbox": re.compile(r'"DataRowID":|"data_row":'),
    "JSON of Create ML": re.compile(r'"coordinates":\{'),
    "JSON of Datumaro": re.compile(r'"items":\[|"dm_format_version":'),
    "JSON of BDD100K or Scalabel": re.compile(r'"box2d":'),
    "JSON of V7 Darwin": re.compile(r'"bounding_box":\{'),
    "a list of detections, without images and categories": re.compile(r'^\[\{.*"image_id":.*"bbox":\['),
    "JSON lines": re.compile(r'^\{.*\}\{"'),  # in one JSON file, there is a comma between objects
}


def head_of(path: Path) -> str:
    """Return the beginning of a text file, without its spaces."""
    try:
        with path.open("rb") as file:
            return re.sub(r"\s", "", file.read(_HEAD).replace(b"\0", b"").decode("utf-8", "ignore"))
    except OSError:
        return ""


def is_label_studio(path: Path) -> bool:
    """Return whether a file has tasks of Label Studio, as an export or as pre-annotations."""
    return path.suffix.lower() == ".json" and bool(_OTHER_JSON[_LABEL_STUDIO].search(head_of(path)))


def other_json(path: Path) -> str | None:
    """Return what a JSON file is that is not read; None for any other file."""
    head = head_of(path) if path.suffix.lower() == ".json" else ""
    return next((what for what, pattern in _OTHER_JSON.items() if pattern.search(head)), None)


def other_format(files: Sequence[Path]) -> tuple[Path, str, str] | None:
    """Return the first file in a format that is not read, what it is, and what to do; None if there is none."""
    found = [(path, what) for path in files if (what := other_json(path) or _OTHERS.get(path.suffix.lower()))]
    if not found:
        return None
    path, what = min(found, key=lambda pair: pair[0].suffix.lower() in _ARCHIVES)
    archive = path.suffix.lower() in _ARCHIVES
    export = "Export the data set from its tool as COCO, YOLO or Pascal VOC."
    return path, what, "Unpack it, and give the folder." if archive else export
