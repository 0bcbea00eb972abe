"""An RPN trained only on base boxes. It provides objectness, or regions for distillation as in earlier methods.

It is the baseline for CLIP proposals: it tends to classify objects without boxes in the training data as background.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ezsd.data.samples import AnnotatedImage, ImageSet, labels_among
from ezsd.detector.proposal_network import ProposalNetwork, build_proposal_network
from ezsd.errors import ArtifactError
from ezsd.recipe import DetectorConfig, Recipe, renamed_keys
from ezsd.run_folder import TargetsFolder
from ezsd.run_metrics import TrainMetrics, read_metrics, write_metrics
from ezsd.training.dataset import TrainingDataset
from ezsd.training.loop import OnStep
from ezsd.training.trainer import Job, train_model
from ezsd.utils.device import process_state
from ezsd.utils.files import read_tensors, write_tensors

_DETECTOR = "detector"
_ADVICE = "Run stage propose again."


def train_base_rpn(
    recipe: Recipe, base: Sequence[str], images: ImageSet, folder: Path, on_step: OnStep | None = None
) -> TrainMetrics:
    """Train the RPN of stage propose and write it to ``folder``.

    A trained RPN is not trained again, and an interrupted training resumes from its last checkpoint.

    Args:
        recipe: The recipe. Uses the sections detector and train, and ``propose.rpn_epochs``.
        base: The base names. Boxes of other names are not used.
        images: The training images.
        folder: The output folder of stage propose.
        on_step: See :func:`ezsd.training.loop.run_loop`.

    Returns:
        The training metrics: steps, images, seconds (of all runs) and images_per_second.

    Raises:
        ArtifactError: A checkpoint does not fit the model, a loss is not finite, or the disk is full.
    """
    paths = TargetsFolder(folder)
    training = paths.rpn_training
    if not paths.rpn.exists():
        torch.manual_seed(recipe.seed)
        network = build_proposal_network(recipe.detector, recipe.detector.pretrained)
        none = {"distillation_weight": 0.0, "names_weight": 0.0, "ignore_top": 0, "pseudo_boxes": 0}
        plain = {"epochs": recipe.propose.rpn_epochs, **none}
        config = recipe.train.model_copy(update=plain)
        known = [_base_only(image, images.names, base) for image in images]
        part = replace(images, images=known, names=tuple(base), has_masks=False)
        dataset = TrainingDataset(part, None, 0, config, recipe.detector.image_size, masks=False)
        job = Job("propose: RPN", training, recipe.seed, recipe.data.workers, on_step)
        metrics = train_model(network, dataset, job)
        if process_state().is_main_process:
            write_metrics(training.metrics, metrics)
            write_tensors(paths.rpn, network.state_dict(), {_DETECTOR: recipe.detector.model_dump_json()})
        process_state().wait_for_everyone()
    return read_metrics(training.metrics, TrainMetrics)


def load_base_rpn(folder: Path, regions: int, device: str) -> ProposalNetwork:
    """Load the RPN that :func:`train_base_rpn` wrote, in evaluation mode.

    Args:
        folder: The output folder of stage propose.
        regions: The maximum number of regions per image, after NMS.
        device: The device of the RPN.

    Raises:
        ArtifactError: The file is missing or damaged, or is not an RPN of ezsd.
    """
    path = TargetsFolder(folder).rpn
    tensors, metadata = read_tensors(path)
    try:
        values = json.loads(metadata.get(_DETECTOR, "{}"))
        config = DetectorConfig.model_validate(renamed_keys(values, "detector"))
        network = build_proposal_network(config.model_copy(update={"rpn_proposals": regions}), pretrained=False)
        network.load_state_dict(tensors)
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path} is not an RPN of ezsd: {str(error).splitlines()[0]} {_ADVICE}") from None
    return network.eval().to(device)


def _base_only(image: AnnotatedImage, names: Sequence[str], base: Sequence[str]) -> AnnotatedImage:
    """Return the image with base boxes only. Base crowds are kept, because negatives inside them are ignored."""
    labels = labels_among(image, names, base)
    kept = labels > 0
    return replace(image, boxes=image.boxes[kept], labels=labels[kept], crowd=image.crowd[kept], segmentations=None,
                   areas=None)  # fmt: skip
