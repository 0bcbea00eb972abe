"""An RPN that has learned base boxes alone: for its objectness, or for its regions, which earlier methods distilled.

It is the baseline that CLIP proposals are held against: what it never saw a box of, it takes for background.
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
from ezsd.run_folder import TrainingFolder, TrainMetrics, read_metrics, write_metrics
from ezsd.training.dataset import TrainingDataset
from ezsd.training.loop import OnStep
from ezsd.training.trainer import Job, train_model
from ezsd.utils.device import process_state
from ezsd.utils.files import read_tensors, write_tensors

WEIGHTS = "rpn.safetensors"  # carries the settings of its architecture
_TRAINING = "rpn"  # folder of checkpoints, log and metrics.json
_DETECTOR = "detector"
_ADVICE = "Run stage propose again."


def train_base_rpn(
    recipe: Recipe, base: Sequence[str], images: ImageSet, folder: Path, on_step: OnStep | None = None
) -> TrainMetrics:
    """Train the RPN of stage propose and write it to ``folder``; what is there is kept, a stopped training goes on.

    Args:
        recipe: sections detector and train say how, ``propose.rpn_epochs`` how long.
        base: names; boxes of other names are not looked at.
        images: the train part.
        folder: of stage propose.
        on_step: see :func:`ezsd.training.loop.run_loop`.

    Returns:
        steps, images, seconds (of all runs), images_per_second.

    Raises:
        ArtifactError: a checkpoint is of another shape, a loss is not finite, or the disk is full.
    """
    training = TrainingFolder(folder / _TRAINING)
    if not (folder / WEIGHTS).exists():
        torch.manual_seed(recipe.seed)
        network = build_proposal_network(recipe.detector, recipe.detector.pretrained)
        plain = {"epochs": recipe.propose.rpn_epochs, "distillation_weight": 0.0, "ignore_top": 0}
        config = recipe.train.model_copy(update=plain)
        known = [_base_only(image, images.names, base) for image in images]
        part = replace(images, images=known, names=tuple(base), has_masks=False)
        dataset = TrainingDataset(part, None, 0, config, recipe.detector.image_size, masks=False)
        job = Job("propose: RPN", training, recipe.seed, recipe.data.workers, on_step)
        metrics = train_model(network, dataset, job)
        if process_state().is_main_process:
            write_metrics(training.metrics, metrics)
            write_tensors(folder / WEIGHTS, network.state_dict(), {_DETECTOR: recipe.detector.model_dump_json()})
        process_state().wait_for_everyone()
    return read_metrics(training.metrics, TrainMetrics)


def load_base_rpn(folder: Path, regions: int, device: str) -> ProposalNetwork:
    """Read what :func:`train_base_rpn` wrote.

    Args:
        folder: of stage propose.
        regions: of an image, at most, after NMS.
        device: where it computes.

    Raises:
        ArtifactError: the file is missing, damaged, or no RPN of ezsd.
    """
    path = folder / WEIGHTS
    tensors, metadata = read_tensors(path)
    try:
        values = json.loads(metadata.get(_DETECTOR, "{}"))
        config = DetectorConfig.model_validate(renamed_keys(values, "detector"))
        network = build_proposal_network(config.model_copy(update={"rpn_proposals": regions}), pretrained=False)
        network.load_state_dict(tensors)
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path} is not the RPN of a run: {str(error).splitlines()[0]} {_ADVICE}") from None
    return network.eval().to(device)


def _base_only(image: AnnotatedImage, names: Sequence[str], base: Sequence[str]) -> AnnotatedImage:
    """Return the image with base boxes and crowds of base objects, on which negatives are ignored."""
    labels = labels_among(image, names, base)
    kept = labels > 0
    return replace(image, boxes=image.boxes[kept], labels=labels[kept], crowd=image.crowd[kept], segmentations=None,
                   areas=None)  # fmt: skip
