"""The files of a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ezsd.errors import ArtifactError

Stage = Literal["adapt", "propose", "train", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class TrainingFolder:
    """The paths of one training.

    Attributes:
        path: The folder itself.
    """

    path: Path

    @property
    def checkpoints(self) -> Path:
        """The checkpoints."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """The losses, one JSON line every 10 steps."""
        return self.path / "log.jsonl"

    @property
    def validation(self) -> Path:
        """The results of validations, one JSON line each."""
        return self.path / "validation.jsonl"

    @property
    def best(self) -> Path:
        """The best weights so far, by validation."""
        return self.path / "best.safetensors"

    @property
    def tensorboard(self) -> Path:
        """The event files of TensorBoard, if the recipe sets that tracker."""
        return self.path / "tensorboard"

    @property
    def metrics(self) -> Path:
        """The metrics of the training."""
        return self.path / "metrics.json"


@dataclass(frozen=True)
class TargetsFolder:
    """The paths of stage propose, except its shards.

    Attributes:
        path: The folder itself.
    """

    path: Path

    @property
    def index(self) -> Path:
        """The location of each image in the shards; written last, so a store with an index is complete."""
        return self.path / "index.json"

    @property
    def rpn(self) -> Path:
        """The weights of the RPN, if the recipe trains one; the metadata contain the detector config."""
        return self.path / "rpn.safetensors"

    @property
    def choices(self) -> Path:
        """The measurements by which settings are chosen, if the recipe leaves some to be chosen."""
        return self.path / "choices"

    @property
    def rpn_training(self) -> TrainingFolder:
        """The training of the RPN."""
        return TrainingFolder(self.path / "rpn")


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run folder.

    Attributes:
        path: The folder itself.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def report(self) -> Path:
        """The report of the run."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """The log of all commands that ran in this folder."""
        return self.path / "run.log"

    @property
    def skipped(self) -> Path:
        """The list of invalid images and boxes that were left out."""
        return self.path / "skipped.json"

    def of(self, stage: Stage) -> Path:
        """Return the folder of a stage."""
        return self.path / ("targets" if stage == "propose" else stage)

    def inputs(self, stage: Stage) -> Path:
        """Return the file with the inputs that a stage was started with."""
        return self.of(stage) / "inputs.json"

    def done(self, stage: Stage) -> Path:
        """Return the file that marks a stage as finished."""
        return self.of(stage) / "done.json"

    def metrics(self, stage: Stage) -> Path:
        """Return the metrics.json of a stage."""
        return self.of(stage) / "metrics.json"

    @property
    def norms(self) -> Path:
        """The adapted norm parameters of the teacher."""
        return self.of("adapt") / "norms.safetensors"

    @property
    def confusion(self) -> Path:
        """The teacher's confusion matrix on validation crops."""
        return self.of("adapt") / "confusion.json"

    @property
    def adapt_log(self) -> Path:
        """The losses of the adaptation, one JSON line every 10 steps."""
        return self.of("adapt") / "log.jsonl"

    @property
    def adapt_checkpoints(self) -> Path:
        """The checkpoints of the adaptation, removed when it finishes."""
        return self.of("adapt") / "checkpoint"

    @property
    def adapt_folds(self) -> Path:
        """The results of folds that choose the share of the norm shift, removed when the adaptation finishes."""
        return self.of("adapt") / "folds"

    @property
    def targets(self) -> TargetsFolder:
        """The CLIP proposals and the teacher's embeddings, and the RPN that was trained for them."""
        return TargetsFolder(self.of("propose"))

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.of("train") / "model"

    @property
    def training(self) -> TrainingFolder:
        """The training of the detector."""
        return TrainingFolder(self.of("train"))

    @property
    def detections(self) -> Path:
        """Detections of base and novel names (gzsd), as COCO results."""
        return self.of("evaluate") / "detections.json"

    @property
    def detections_zsd(self) -> Path:
        """Detections of novel names only (zsd), as COCO results."""
        return self.of("evaluate") / "detections_zsd.json"

    @property
    def per_category(self) -> Path:
        """The table of metrics per category."""
        return self.of("evaluate") / "per_category.csv"

    @property
    def detector_confusion(self) -> Path:
        """The detector's confusion matrix on the val images."""
        return self.of("evaluate") / "confusion.json"

    @property
    def parts(self) -> Path:
        """Detections of an unfinished evaluation."""
        return self.of("evaluate") / "parts"

    def check(self) -> None:
        """Raise ArtifactError unless this is a run folder."""
        if not self.recipe.is_file():
            raise ArtifactError(
                f"{self.path} is not a run folder: it has no {self.recipe.name}. "
                "Create one with: ezsd run RECIPE --out DIR"
            )
