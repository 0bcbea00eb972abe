"""Project the cost of a recipe to large data sets on several devices: ``ezsd plan --gpus N``."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from ezsd.commands.timing import Measured
from ezsd.pipeline.workload import Pace
from ezsd.recipe import Recipe, needs_targets
from ezsd.utils.format import byte_size, duration

ROW_BYTES = 29  # per stored box without its embedding: corners, weight, score, label, kind
_NOTHING = Pace(0, 0, 0)


@dataclass(frozen=True)
class DataSize:
    """The size of a train part.

    Attributes:
        name: The name of the data.
        images: The number of images.
        boxes: The number of boxes.
    """

    name: str
    images: int
    boxes: int

    def times(self, factor: float) -> DataSize:
        """Return a size with the same number of boxes per image."""
        return DataSize(self.name, round(self.images * factor), round(self.boxes * factor))


COCO = DataSize("COCO train2017", 118_287, 860_001)
LVIS = DataSize("LVIS v1 train", 100_170, 1_270_141)
MANY_IMAGES = 10_000_000  # with as many boxes per image as COCO


def projection(recipe: Recipe, measured: Measured, devices: int) -> Table:
    """Return the projected cost of mining (stage propose with its RPN) and training.

    The time is that of one device, as measured, times the units of work, divided by the number of devices.

    Args:
        recipe: The recipe; image sizes, boxes kept per image and epochs are those of the recipe.
        measured: The paces on this device.
        devices: The number of devices.
    """
    many = COCO.times(MANY_IMAGES / COCO.images)
    sizes = (COCO, LVIS, DataSize(f"{MANY_IMAGES:,} images", many.images, many.boxes))
    table = Table(title=f"Projection to {devices:,} devices like this one", title_justify="left")
    table.add_column("train part")
    for column in ("mining", "stored", f"training, {recipe.train.epochs:g} epochs"):
        table.add_column(column, justify="right", no_wrap=True)
    for size in sizes:
        mining = duration(mining_seconds(recipe, measured, size) / devices, rough=True)
        training = duration(training_seconds(recipe, measured, size) / devices, rough=True)
        table.add_row(size.name, mining, byte_size(stored_bytes(recipe, measured, size)), training)
    return table


def mining_seconds(recipe: Recipe, measured: Measured, size: DataSize) -> float:
    """Return the seconds of stage propose on one device; 0 if the recipe distills nothing."""
    if not needs_targets(recipe.train):
        return 0.0
    steps = size.images * recipe.propose.rpn_epochs / _images_per_step(recipe)
    rpn = measured.paces.get("rpn step", _NOTHING).mean * steps
    return rpn + measured.paces["propose in an image"].mean * size.images


def training_seconds(recipe: Recipe, measured: Measured, size: DataSize) -> float:
    """Return the seconds of stage train on one device."""
    return measured.paces["train step"].mean * size.images * recipe.train.epochs / _images_per_step(recipe)


def stored_bytes(recipe: Recipe, measured: Measured, size: DataSize) -> int:
    """Return the bytes of the target store: the kept proposals of all images and the boxes."""
    rows = size.images * recipe.propose.keep + size.boxes if needs_targets(recipe.train) else 0
    return rows * (2 * measured.embedding_dim + ROW_BYTES)


def _images_per_step(recipe: Recipe) -> int:
    return recipe.train.batch_size * recipe.train.accumulate
