"""Train a plain closed-set detector with the same components on the same boxes: a reference for the base AP of a run.

    python benchmarks/closed_set.py recipes/coco2k.yaml --out runs/closed_set

The plain detector is torchvision's GeneralizedRCNN with the recipe's backbone, FPN, RPN and box-head layers. It
classifies the base categories with a linear layer, and regresses boxes for each category. Images, order, schedule and
input size are those of the recipe. It is evaluated on base names, and on the few-shot names of the split if it has any.
Running it again resumes an interrupted run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads

from ezsd.data.categories import load_split
from ezsd.data.formats.coco import load_images
from ezsd.data.formats.lvis import ground_truth_of, read_rules
from ezsd.detector.detections import Detections
from ezsd.detector.rcnn import Rcnn, batch_images, build_detector, roi_options
from ezsd.detector.roi_heads import Sizes
from ezsd.errors import ArtifactError, EzsdError
from ezsd.evaluation.metrics import coco_metrics, mean_figures
from ezsd.inference.batching import Query, detect_in_parts
from ezsd.recipe import DetectorConfig, Recipe, load_recipe, save_recipe
from ezsd.run_folder import TrainingFolder
from ezsd.training.dataset import TrainingDataset
from ezsd.training.trainer import Job, train_model
from ezsd.utils.files import write_json
from ezsd.utils.log import show_log


class Batched(nn.Module):
    """Replace the transform of the plain detector: images already have their final size and are only padded."""

    def forward(self, images: list[Tensor], targets: Any = None) -> tuple[ImageList, Any]:
        return batch_images(images), targets

    def postprocess(self, found: Any, *_: Any) -> Any:
        return found


class PlainHead(nn.Module):
    """The layers of our box head without the two output layers."""

    def __init__(self, detector: Rcnn) -> None:
        super().__init__()
        head = detector.roi_heads.box_head
        self.shared, self.to_box_features = head.shared, head.to_box_features
        self.to_class_features = head.to_embedding[:-1]
        self.to_box_hidden = head.to_deltas[:-1]

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        shared = self.shared(pooled)
        return self.to_class_features(shared), self.to_box_hidden(self.to_box_features(shared))


class PlainPredictor(nn.Module):
    """The linear output layers of a closed-set detector."""

    def __init__(self, hidden: int, categories: int) -> None:
        super().__init__()
        self.classes = nn.Linear(hidden, categories + 1)
        self.deltas = nn.Linear(hidden, 4 * (categories + 1))

    def forward(self, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.classes(features[0]).float(), self.deltas(features[1]).float()


class FixedNames(nn.Module):
    """Wrap the plain detector's RoI heads in the interface of ours; they ignore the requested names."""

    def __init__(self, heads: RoIHeads) -> None:
        super().__init__()
        self.heads = heads

    def detect(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        objectness: list[Tensor],
        sizes: Sizes,
        names: Tensor,
        owners: Tensor | None = None,
    ) -> list[Detections]:
        found, _ = self.heads(features, proposals, sizes)
        return [Detections(one["boxes"], one["labels"] - 1, one["scores"]) for one in found]


def plain_detector(config: DetectorConfig, categories: int, pretrained: bool) -> GeneralizedRCNN:
    """Build torchvision's detector from the components of ours."""
    config = config.model_copy(update={"semantic_regression": False})
    ours = build_detector(config, 1, masks=False, pretrained=pretrained)
    heads = RoIHeads(
        ours.roi_heads.box_roi_pool,
        PlainHead(ours),
        PlainPredictor(config.head_features, categories),
        **roi_options(config),
    )
    return GeneralizedRCNN(ours.backbone, ours.rpn, heads, Batched())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="output folder for checkpoints, log and metrics.json")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    show_log()
    try:
        print(json.dumps(closed_set(load_recipe(arguments.recipe, arguments.changes), arguments.out)))
    except EzsdError as error:
        parser.exit(2, f"{error}\n")


def closed_set(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Train the plain detector on the base boxes of a recipe, evaluate it on the val part, and write metrics.json.

    Raises:
        ArtifactError: ``folder`` was made from a different recipe.
    """
    saved = folder / "recipe.yaml"
    if saved.exists() and load_recipe(saved) != recipe:
        raise ArtifactError(f"{folder} was made from a different recipe, see {saved}. Use another --out.")
    save_recipe(recipe, saved)
    split = load_split(recipe.split, recipe.data.train.annotations)
    names, base = split.trained, len(split.base)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    none = {"distillation_weight": 0.0, "names_weight": 0.0, "ignore_top": 0, "pseudo_boxes": 0}
    config = recipe.train.model_copy(update=none)
    train, val = (load_images(part, names, recipe.data.skip_bad) for part in (recipe.data.train, recipe.data.val))
    torch.manual_seed(recipe.seed)
    model = plain_detector(recipe.detector, len(names), recipe.detector.pretrained)
    images = TrainingDataset(train, None, 1, config, recipe.detector.image_size, masks=False)
    trained = train_model(model, images, Job("closed set", TrainingFolder(folder), recipe.seed, recipe.data.workers))
    asked = Rcnn(model.backbone, model.rpn, FixedNames(model.roi_heads), recipe.detector.image_size).to(device).eval()
    labels = range(1, len(names) + 1)
    query = Query(torch.zeros(0, 1), labels, recipe.evaluate.batch_size)
    found = detect_in_parts(asked, val.images, query, folder / "val")
    truth = ground_truth_of(val, read_rules(recipe.data.val.annotations, names))
    by_label = coco_metrics(truth, found)
    mean = mean_figures(one for label, one in by_label.items() if label <= base)
    figures = {"ap50": mean.ap50, "ap": mean.ap, "steps": trained.steps, "seconds": trained.seconds}
    if split.few_shot:
        novel = mean_figures(one for label, one in by_label.items() if label > base)
        figures |= {"ap50_novel": novel.ap50, "ap_novel": novel.ap}
    write_json(folder / "metrics.json", figures)
    return figures


if __name__ == "__main__":
    main()
