"""Commands that use a trained model: detect, label, export, push, serve."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ezsd.cli.options import DeviceOption, RunFolder, error_messages, with_engine
from ezsd.utils.ray_engine import RayEngine

if TYPE_CHECKING:
    from ezsd.commands.detect import Asked, Results
    from ezsd.inference.detector import Detector
    from ezsd.inference.onnx_detector import OnnxDetector
    from ezsd.inference.sources import Source


class Precision(str, Enum):
    """The precisions of a detector."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, or a run folder that contains one.")]
Sources = Annotated[
    list[str],
    typer.Argument(metavar="SOURCE...", help="Images, videos, folders, patterns, camera:0, or URLs (--allow-network)."),
]
VocabularyOption = Annotated[
    str | None,
    typer.Option("--vocabulary", metavar="NAMES", help='Names to detect: "cat, traffic cone", or a .txt or .yaml file; '
                 "default: those of the model."),
]  # fmt: skip
ThresholdOption = Annotated[
    float | None,
    typer.Option("--threshold", min=0, max=1, help="The minimum score; default: the calibrated ones of the model."),
]
TeacherOption = Annotated[
    str | None,
    typer.Option("--teacher", metavar="NAME", help="The teacher of the model, as in a recipe, for names that the model "
                 "does not know; default: the one that the model names, if nothing foreign is in it."),
]  # fmt: skip
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", help="fp32; bf16: faster on many CPUs and on GPUs; fp16: for GPUs; auto: the fastest."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing label files.")]
NetworkOption = Annotated[bool, typer.Option("--allow-network", help="Allow URLs as sources.")]


class Merge(str, Enum):
    """How detections of one object in several tiles are merged."""

    nms = "nms"
    nmm = "nmm"


class Annotations(str, Enum):
    """The formats of pre-annotations."""

    coco = "coco"
    yolo = "yolo"
    label_studio = "label-studio"
    cvat = "cvat"


class Number(str, Enum):
    """The number formats of exported models."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


@with_engine
def detect(
    model: ModelPath,
    sources: Sources,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The output folder.")],
    vocabulary: VocabularyOption = None,
    threshold: ThresholdOption = None,
    saved: Annotated[
        list[str] | None,
        typer.Option(
            "--save",
            metavar="WHAT",
            help="images, json, jsonl, csv, coco, coco-results, yolo, label-studio "
            "or cvat; several with commas; default: images,json.",
        ),
    ] = None,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Keep all names of an object.")] = False,
    tile: Annotated[int | None, typer.Option(metavar="PIXELS", help="Detect in tiles of this side, too.")] = None,
    overlap: Annotated[float, typer.Option(help="The overlap of tiles, as a fraction of their side.")] = 0.2,
    merge: Annotated[Merge, typer.Option(help="How detections in several tiles are merged.")] = Merge.nms,
    track: Annotated[bool, typer.Option("--track", help="Number the objects of videos (ByteTrack).")] = False,
    stride: Annotated[int, typer.Option(min=1, help="Use every n-th frame of videos.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 4,
    device: DeviceOption = "auto",
    precision: PrecisionOption = Precision.fp32,
    teacher: TeacherOption = None,
    allow_network: NetworkOption = False,
    overwrite: OverwriteOption = False,
    engine: RayEngine | None = None,
) -> None:
    """Detect objects by name in images, folders, videos and streams; write drawn images and detections.json."""
    with error_messages():
        from ezsd.commands.detect import SAVED, Asked, check_formats, save
        from ezsd.inference.outputs import check_distinct, check_no_labels
        from ezsd.inference.sources import open_source
        from ezsd.inference.tiling import Tiling

        formats = check_formats(saved or ["images,json"], SAVED, "--save")
        if not overwrite:
            check_no_labels(out, formats)
        tiling = None if tile is None else Tiling(tile, overlap, merge.value, batch_size)
        source = open_source(sources, allow_network=allow_network, stride=stride, exclude=out)
        if "yolo" in formats:
            check_distinct((file.file_name for file in source.known_files), "yolo")
        options = {"threshold": threshold, "batch_size": batch_size, "multi_label": multi_label, "track": track}
        drawn = out if "images" in formats else None
        asked = Asked(str(model), teacher, precision.value, vocabulary, {**options, "tiling": tiling}, drawn)
        detector, names, results = _detected(asked, source, "detect", device, engine)
        limits = detector.thresholds.of_call(threshold).of(names).tolist()
        about = {"model": str(model), "threshold": threshold, "thresholds": dict(zip(names, limits, strict=True))}
        save(results, names, formats, out, about)
        if drawn is not None:
            typer.echo(f"wrote drawings to {drawn}")
        for path in results.files:
            typer.echo(f"wrote {path}")
        typer.echo(str(results.summary))
        if results.interrupted:
            raise typer.Exit(130)


@with_engine
def label(
    model: ModelPath,
    sources: Sources,
    target: Annotated[Annotations, typer.Option("--to", help="The format; coco also for FiftyOne and Roboflow.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The output folder.")],
    vocabulary: VocabularyOption = None,
    threshold: ThresholdOption = None,
    image_url: Annotated[
        str,
        typer.Option(metavar="URL", help="label-studio: the start of the addresses of images."),
    ] = "/data/local-files/?d=",
    device: DeviceOption = "auto",
    precision: PrecisionOption = Precision.fp32,
    teacher: TeacherOption = None,
    overwrite: OverwriteOption = False,
    engine: RayEngine | None = None,
) -> None:
    """Write pre-annotations of images for an annotation tool."""
    with error_messages():
        from ezsd.commands.detect import Asked
        from ezsd.commands.label import check_image_files, write_labels
        from ezsd.inference.outputs import check_no_labels
        from ezsd.inference.sources import open_source

        if not overwrite:
            check_no_labels(out, [target.value])
        # Nothing is opened yet: URLs are refused by the message for all that is not an image file.
        source = open_source(sources, allow_network=True, exclude=out)
        check_image_files(source, target.value)
        asked = Asked(str(model), teacher, precision.value, vocabulary, {"threshold": threshold})
        _, names, results = _detected(asked, source, "label", device, engine)
        typer.echo(f"wrote {write_labels(results, names, target.value, out, image_url)}")
        typer.echo(str(results.summary))
        if results.interrupted:
            raise typer.Exit(130)


def _detected(
    asked: Asked, source: Source, title: str, device: str, engine: RayEngine | None
) -> tuple[Detector | OnnxDetector, tuple[str, ...], Results]:
    """Return the detector, its vocabulary, and what it found in a source."""
    from ezsd.commands.detect import detect_source
    from ezsd.inference.loading import load_detector

    if engine is not None:
        engine.check()
    detector = load_detector(asked.model, device, asked.teacher, asked.precision)
    known = detector.set_vocabulary(asked.vocabulary)
    if engine is None:
        found = detector.stream(source, **asked.options)
        return detector, known.names, detect_source(found, source, title, asked.drawn)
    from ezsd.commands.detect_on_ray import detect_files

    return detector, known.names, detect_files(engine, replace(asked, vocabulary=known), source, title)


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, or a run folder that contains one.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The ONNX file to write; with .npz only its names file is written.")
    ],
    vocabulary: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Names for the names file, in addition to those of the model."),
    ] = None,
    baked: Annotated[
        bool, typer.Option("--baked", help="Make the vocabulary a part of the graph instead of an input.")
    ] = False,
    precision: Annotated[
        Number, typer.Option(help="fp32; fp16: half the size, for GPUs; int8: for CPUs.")
    ] = Number.fp32,
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="int8: a folder of images to measure ranges on.")
    ] = None,
    teacher: TeacherOption = None,
) -> None:
    """Export a model to ONNX; ezsd detect runs it without torch."""
    with error_messages():
        from ezsd.deploy.onnx_export import OnnxOptions, export_onnx

        for path in export_onnx(model, out, vocabulary, OnnxOptions(baked, precision.value, calibration, teacher)):
            typer.echo(f"wrote {path}")


def push(
    folder: RunFolder,
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository; created if missing.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
    license_name: Annotated[
        str, typer.Option("--license", metavar="NAME", help="The license of the weights, such as apache-2.0.")
    ] = "other",
) -> None:
    """Upload the model of a run to a hub, with a model card written from the run."""
    with error_messages():
        from ezsd.hub.upload import push_to_hub

        pinned = push_to_hub(folder, repository, private=not public, license_name=license_name)
        typer.echo(f"wrote {pinned}")


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="What ezsd detect takes: a folder, a .onnx file ...")],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="EZSD_TOKEN", help="Requests must have this token. Better set in the environment."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="The maximum number of images per batch.")] = 8,
    limits: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="KEY=VALUE", help="Change a limit, as in upload_mb=5. Repeatable."),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = Precision.fp32,
    teacher: TeacherOption = None,
) -> None:
    """Serve a detector over HTTP, with a page for people at /; see docs/service.md."""
    with error_messages():
        from ezsd.commands.serve import serve_model
        from ezsd.inference.loading import load_detector

        load = partial(load_detector, model, device, teacher, precision.value)
        serve_model(load, (host, port), token, batch_size, limits or ())
