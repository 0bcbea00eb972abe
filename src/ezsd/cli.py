"""The command line. Commands import what they need inside the function, so that ``ezsd --help`` is fast."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ezsd._version import __version__
from ezsd.errors import EzsdError

if TYPE_CHECKING:
    from ezsd.run_folder import Metrics, Stage

app = typer.Typer(
    help="Zero-shot object detection: train a fast detector for objects that have a name but no training boxes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Until(str, Enum):
    """The stages of a run."""

    adapt = "adapt"
    propose = "propose"
    train = "train"
    evaluate = "evaluate"
    report = "report"


RecipePath = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A recipe file (YAML) or the name of a shipped recipe, see ezsd recipes."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder written by ezsd run.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe, as in train.lr=0.01. Repeatable."),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Apply a preset to the recipe, before --set: paper or baseline, see ezsd recipes."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Remove and recompute results of a different recipe or different data.")
]


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
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
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


class Level(str, Enum):
    """The log levels."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class Target(str, Enum):
    """The devices that a recipe can be written for."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class Number(str, Enum):
    """The number formats of exported models."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class Layout(str, Enum):
    """The formats that a data set can be converted to."""

    coco = "coco"
    yolo = "yolo"
    voc = "voc"


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show details; same as --log-level debug.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show warnings only; same as --log-level warning.")
    ] = False,
    log_level: Annotated[Level, typer.Option(help="Show log messages of this level and above.")] = Level.info,
) -> None:
    from ezsd.utils.log import show_log
    from ezsd.utils.memory import keep_freed_memory

    keep_freed_memory()
    level = Level.debug if verbose else Level.warning if quiet else log_level
    show_log(getattr(logging, level.name.upper()))
    if version:
        typer.echo(f"ezsd {__version__}")
        raise typer.Exit


@app.command()
def run(
    recipe: RecipePath,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run folder to write.")],
    preset: Preset = None,
    changes: Set = None,
    until: Annotated[Until, typer.Option(help="The last stage to run.")] = Until.report,
    overwrite: Overwrite = False,
    device: DeviceOption = "auto",
) -> None:
    """Run a recipe: adapt, propose, train, evaluate, report. Running it again resumes an interrupted run."""
    with _error_messages():
        from ezsd.recipe import load_recipe

        loaded = load_recipe(recipe, changes or (), preset)  # report typing errors before torch is imported
        from ezsd.pipeline.run import run_recipe
        from ezsd.utils.device import choose_device

        choose_device(device)

        _show(run_recipe(loaded, out, until.value, overwrite))


@app.command()
def adapt(folder: RunFolder, overwrite: Overwrite = False, device: DeviceOption = "auto") -> None:
    """Run stage 1 in a run folder: adapt the teacher's normalization layers to the images."""
    _run_stage(folder, "adapt", overwrite, device)


@app.command()
def propose(folder: RunFolder, overwrite: Overwrite = False, device: DeviceOption = "auto") -> None:
    """Run stage 2 in a run folder: compute CLIP proposals and their teacher embeddings."""
    _run_stage(folder, "propose", overwrite, device)


@app.command()
def train(folder: RunFolder, overwrite: Overwrite = False, device: DeviceOption = "auto") -> None:
    """Run stage 3 in a run folder: train the detector."""
    _run_stage(folder, "train", overwrite, device)


@app.command()
def evaluate(folder: RunFolder, overwrite: Overwrite = False, device: DeviceOption = "auto") -> None:
    """Run stage 4 in a run folder: compute the zsd and gzsd figures on the val images."""
    _run_stage(folder, "evaluate", overwrite, device)


@app.command()
def report(
    folder: RunFolder,
    baseline: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A run of the same split and val images to compare with.")
    ] = None,
) -> None:
    """Write report.html of a finished run: figures, curves, categories and images in one file."""
    with _error_messages():
        from ezsd.report.page import write_report

        typer.echo(f"wrote {write_report(folder, baseline)}")


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders written by ezsd run.")],
    mean: Annotated[
        bool, typer.Option("--mean", help="Average runs that differ only in their seed: mean and standard deviation.")
    ] = False,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Allow runs with different settings, splits or val images.")
    ] = False,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the table as CSV.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write the table as an HTML page.")
    ] = None,
) -> None:
    """Print the figures of several runs in one table."""
    with _error_messages():
        from ezsd.report.compare import as_csv, as_html, as_text
        from ezsd.report.compare import compare as compare_runs
        from ezsd.utils.files import write_text

        table = compare_runs(folders, mixed, mean)
        console = Console(highlight=False)
        console.print(as_text(table, console.width))
        for path, write in ((csv, as_csv), (html, as_html)):
            if path is not None:
                write_text(path, write(table))
                typer.echo(f"wrote {path}")


@app.command()
def recipes() -> None:
    """List the shipped recipes with their purpose, command and measured figures, and the presets."""
    from ezsd.recipe_files import recipe_header, shipped_presets, shipped_recipes

    presets = {f"--preset {name}": path for name, path in shipped_presets().items()}
    for name, path in (shipped_recipes() | presets).items():
        header = recipe_header(path).replace("\n", "\n    ")
        typer.echo(f"{name}\n    {header}\n")


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for a bug report.")] = False,
) -> None:
    """Check versions, devices, operators, disk, memory, extras and teachers, and say how to fix problems."""
    from ezsd.commands.doctor import as_text, examine

    found = examine()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        Console(highlight=False).print(as_text(found))
    if any(problem["stops"] for problem in found["problems"]):
        raise typer.Exit(1)


@app.command()
def validate(recipe: RecipePath, preset: Preset = None, changes: Set = None) -> None:
    """Check a recipe, its split and every image, and list all problems."""
    with _error_messages():
        from ezsd.commands.validate import check_recipe

        typer.echo(check_recipe(recipe, changes or (), preset))


@app.command()
def plan(recipe: RecipePath, preset: Preset = None, changes: Set = None, device: DeviceOption = "auto") -> None:
    """Count the work of a recipe and estimate its time by measuring for about a minute; no files are written."""
    with _error_messages():
        from ezsd.recipe import load_recipe

        loaded = load_recipe(recipe, changes or (), preset)  # report typing errors before torch is imported
        from ezsd.commands.plan import make_plan
        from ezsd.utils.device import choose_device

        choose_device(device)
        Console(highlight=False).print(make_plan(loaded, str(recipe)))


@app.command()
def init(
    novel: Annotated[
        str, typer.Option(metavar="NAMES", help='Names to detect without boxes: "traffic cone, umbrella".')
    ],
    dataset: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATASET]",
            help="A folder or file: COCO, YOLO, Pascal VOC, LVIS or LabelMe.",
        ),
    ] = None,
    base: Annotated[
        str, typer.Option(metavar="NAMES", help="Base names; default: all categories with boxes that are not novel.")
    ] = "",
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the images, if not found.")] = None,
    annotations: Annotated[Path | None, typer.Option(metavar="JSON", help="The boxes as COCO JSON.")] = None,
    val_images: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the val images.")] = None,
    val_annotations: Annotated[Path | None, typer.Option(metavar="JSON", help="The boxes of the val images.")] = None,
    val_share: Annotated[
        float, typer.Option(help="The fraction of the images used for validation, if the data set has no val part.")
    ] = 0.2,
    box_format: Annotated[
        str, typer.Option(metavar="FORMAT", help="The format of COCO boxes if it is another: xyxy, xywh-fraction, ...")
    ] = "xywh",
    out: Annotated[Path, typer.Option(metavar="RECIPE", help="The recipe file to write.")] = Path("recipe.yaml"),
    teacher: Annotated[
        str, typer.Option(metavar="TEACHER", help="offline, open_clip:ViT-B-32/openai or others, see docs/teachers.md.")
    ] = "offline",
    device: Annotated[
        Target, typer.Option("--for", help="The device to write the recipe for; auto: a GPU if there is one.")
    ] = Target.auto,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write a recipe for your own images. Base names are the categories that have boxes."""
    with _error_messages():
        from ezsd.commands.init import OwnFiles, make_recipe
        from ezsd.data.categories import split_names
        from ezsd.utils.format import shell_quoted

        files = OwnFiles(
            dataset, images, annotations, val_images, val_annotations, val_share, box_format, split_names(base)
        )
        made = make_recipe(files, split_names(novel), out, teacher, device.value, overwrite)
        for text in made.summary:
            typer.echo(f"found {text}")
        for path in made.files:
            typer.echo(f"wrote {path}")
        for text in made.advice:
            typer.echo(f"note: {text}")
        recipe, run = shell_quoted(out), shell_quoted(Path("runs", out.stem))
        for command in (f"validate {recipe}", f"plan {recipe}", f"run {recipe} --out {run}"):
            typer.echo(f"next: ezsd {command}")


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A folder or file: COCO, YOLO, Pascal VOC, LVIS or LabelMe.")
    ],
    out: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write.")],
    to: Annotated[Layout, typer.Option(help="The format to write.")],
) -> None:
    """Copy a data set to a folder in another format."""
    with _error_messages():
        from ezsd.commands.convert import FORMATS
        from ezsd.commands.convert import convert as convert_dataset

        made = convert_dataset(source, out, FORMATS[list(Layout).index(to)])
        for text in made.summary:
            typer.echo(f"found {text}")
        for text in made.notes:
            typer.echo(f"note: {text}")
        typer.echo(f"wrote {out}")


@app.command()
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
    allow_network: NetworkOption = False,
) -> None:
    """Detect objects by name in images, folders, videos and streams; write drawn images and detections.json."""
    with _error_messages():
        from ezsd.commands.detect import SAVED, Drawings, check_formats, detect_source, save
        from ezsd.inference.sources import open_source
        from ezsd.inference.tiling import Tiling

        formats = check_formats(saved or ["images,json"], SAVED, "--save")
        tiling = None if tile is None else Tiling(tile, overlap, merge.value, batch_size)
        source = open_source(sources, allow_network=allow_network, stride=stride, exclude=out)
        from ezsd.inference.loading import load_detector

        detector = load_detector(model, device)
        names = detector.set_vocabulary(vocabulary).names
        with Drawings(out) as drawings:
            found = detector.stream(
                source, None, threshold, batch_size, multi_label=multi_label, track=track, tiling=tiling
            )
            results = detect_source(found, source, drawings=drawings if "images" in formats else None)
        save(results, names, formats, out, {"model": str(model), "threshold": threshold})
        for path in results.files:
            typer.echo(f"wrote {path}")
        typer.echo(str(results.summary))
        if results.interrupted:
            raise typer.Exit(130)


@app.command()
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
) -> None:
    """Write pre-annotations of images for an annotation tool."""
    with _error_messages():
        from ezsd.commands.detect import detect_source
        from ezsd.commands.label import write_labels
        from ezsd.inference.sources import open_source

        source = open_source(sources, exclude=out)
        from ezsd.inference.loading import load_detector

        detector = load_detector(model, device)
        names = detector.set_vocabulary(vocabulary).names
        results = detect_source(detector.stream(source, None, threshold), source, "label")
        typer.echo(f"wrote {write_labels(results, names, target.value, out, image_url)}")
        typer.echo(str(results.summary))
        if results.interrupted:
            raise typer.Exit(130)


@app.command()
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
) -> None:
    """Export a model to ONNX; ezsd detect runs it without torch."""
    with _error_messages():
        from ezsd.deploy.onnx_export import OnnxOptions, export_onnx

        for path in export_onnx(model, out, vocabulary, OnnxOptions(baked, precision.value, calibration)):
            typer.echo(f"wrote {path}")


@app.command()
def push(
    folder: RunFolder,
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository; created if missing.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
    license_name: Annotated[
        str, typer.Option("--license", metavar="NAME", help="The license of the weights, such as apache-2.0.")
    ] = "other",
) -> None:
    """Upload the model of a run to a hub, with a model card written from the run."""
    with _error_messages():
        from ezsd.hub.upload import push_to_hub

        pinned = push_to_hub(folder, repository, private=not public, license_name=license_name)
        typer.echo(f"wrote {pinned}")


@app.command()
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
) -> None:
    """Serve a detector over HTTP, with a page for people at /; see docs/service.md."""
    with _error_messages():
        from ezsd.commands.serve import serve_model

        serve_model(model, (host, port), token, batch_size, limits or ())


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The output folder for data, runs and report.")
    ] = Path("runs/demo"),
    fast: Annotated[
        bool, typer.Option("--fast", help="Use fewer scenes and shorter trainings; saves minutes.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Run EZSD and its baseline on the pocket data set, compare their figures, and write a report."""
    with _error_messages():
        from ezsd.commands.demo import run_demo

        for path in run_demo(out, fast, overwrite).values():
            typer.echo(f"wrote {path}")


@app.command()
def pocket(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The output folder for images and annotations.")],
    images: Annotated[
        int, typer.Option("--images", metavar="N", help="Number of scenes: 70% train, 15% val, 15% test.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the scenes.")] = 0,
) -> None:
    """Build the pocket data set: small scenes of OpenMoji pictograms in COCO format."""
    with _error_messages():
        from ezsd.pocket.dataset import make_pocket

        for path in make_pocket(out, images, seed).values():
            typer.echo(f"wrote {path}")


@app.command("pocket-teacher")
def pocket_teacher(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The weights file to write (.safetensors).")],
    seed: Annotated[int, typer.Option(min=0, help="The seed of weights, images and captions.")] = 0,
) -> None:
    """Train the Pocket CLIP as its packaged weights were. Running it again resumes an interrupted training."""
    with _error_messages():
        from ezsd.pocket.train_teacher import train_pocket_teacher

        train_pocket_teacher(out, seed)
        typer.echo(f"wrote {out} and {out.with_suffix('.json')}")


def _run_stage(folder: Path, stage: Stage, overwrite: bool, device: str) -> None:
    with _error_messages():
        from ezsd.pipeline.run import run_stage
        from ezsd.utils.device import choose_device

        choose_device(device)
        _show(run_stage(folder, stage, overwrite))


def _show(metrics: Mapping[Stage, Metrics]) -> None:
    """Print the summary of stage evaluate, in the first process only."""
    from ezsd.evaluation.summary import summary
    from ezsd.run_folder import EvaluateMetrics
    from ezsd.utils.log import is_first_process

    evaluated = metrics.get("evaluate")
    if isinstance(evaluated, EvaluateMetrics) and is_first_process():
        Console(highlight=False).print(summary(evaluated))


@contextmanager
def _error_messages() -> Iterator[None]:
    """Turn errors that the user can fix into messages and exit code 2, and Ctrl-C into exit code 130."""
    try:
        yield
    except EzsdError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print("Error:" if len(error.problems) > 1 else "Error: ", style="bold red", end="")
        for problem in error.problems:
            console.print(f"\n  {problem}" if len(error.problems) > 1 else problem, markup=False, end="")
        console.print()
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "torchvision", "safetensors", "huggingface_hub"):
            raise
        typer.echo(
            f"Error: {error.name} is not installed, and this needs it: pip install ezsd. Without it, only ONNX files "
            "can be used.",
            err=True,
        )
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. Run the same command again to resume.", err=True)
        raise typer.Exit(130) from None


def main() -> None:
    """Run the command line; a teacher ``module:function`` is also searched for in the working directory."""
    sys.path.append(os.getcwd())
    app()
