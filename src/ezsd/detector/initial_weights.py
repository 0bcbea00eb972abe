"""Start from the weights of another detector: a model folder, or torchvision's detector trained on COCO."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, fasterrcnn_resnet50_fpn

from ezsd.detector.backbone import check_backbone
from ezsd.detector.model_folder import CONFIG, MODEL, load_model, read_config
from ezsd.detector.rcnn import Rcnn
from ezsd.errors import ArtifactError, RecipeError
from ezsd.recipe import TORCHVISION_COCO, DetectorConfig
from ezsd.run_folder import RunFolder

logger = logging.getLogger(__name__)

_SETTINGS = ("strict", "named", "few_shot", "open")  # each knows more about novel names than the one before
# Layers whose weights have a meaning only in the embedding space of their teacher, besides the one that takes the text.
_OF_TEACHER = ("roi_heads.box_predictor.", "roi_heads.box_head.to_embedding.4.")


@dataclass(frozen=True)
class InitialWeights:
    """The weights of another detector.

    Attributes:
        tensors: The weights by the names of :class:`ezsd.detector.rcnn.Rcnn`.
        setting: The setting of the other detector: strict, named, few_shot or open.
        base: Its base names; it was trained on boxes of these names.
    """

    tensors: dict[str, Tensor]
    setting: str
    base: tuple[str, ...]

    def load_into(self, model: Rcnn) -> list[str]:
        """Load the tensors that the model has in the same shape, and freeze the first layers of the backbone.

        Returns:
            The names of the tensors of the model that were not loaded.
        """
        own = model.state_dict()
        same = {name: value for name, value in self.tensors.items() if name in own and value.shape == own[name].shape}
        model.load_state_dict(same, strict=False)
        model.backbone.freeze_first_layers()
        missing = [name for name in own if name not in same and not name.endswith("num_batches_tracked")]
        logger.info(f"Initial weights: {len(own) - len(missing)} of {len(own)} tensors from the other detector")
        if missing:
            logger.info(f"Other shape or not present, so not loaded: {', '.join(_modules(missing))}")
        return missing

    def joint_setting(self, setting: str, novel: Iterable[str]) -> str:
        """Return the setting of a model that starts from these weights.

        Args:
            setting: The setting of its own training.
            novel: Its novel names; the setting is open if the other detector was trained on boxes of one of them.
        """
        if set(self.base) & set(novel):
            return "open"
        return max(setting, self.setting, key=_SETTINGS.index)


def check_detector(config: DetectorConfig) -> None:
    """Check the backbone and the path of initial weights, without loading weights.

    Raises:
        RecipeError: The backbone cannot be used, or differs from that of ``start_from``.
        ArtifactError: ``start_from`` is not a model folder.
    """
    check_backbone(config.backbone, config.pretrained and config.start_from is None)
    if config.start_from is None:
        return
    folder = start_folder(config)
    if folder is not None and not all((folder / name).is_file() for name in (CONFIG, MODEL)):
        raise ArtifactError(
            f"detector.start_from = {config.start_from!r} is not a model folder. Expected a folder with {MODEL} and "
            f"{CONFIG}, a run folder that contains one, or {TORCHVISION_COCO}."
        )
    backbone = "resnet50" if folder is None else read_config(folder).detector.backbone
    if backbone != config.backbone:
        raise RecipeError(
            f"detector.start_from = {config.start_from!r} has the backbone {backbone}, but detector.backbone is "
            f"{config.backbone}. Set detector.backbone: {backbone}."
        )


def start_folder(config: DetectorConfig) -> Path | None:
    """Return the model folder that ``start_from`` names; None for torchvision's weights or without ``start_from``."""
    if config.start_from in (None, TORCHVISION_COCO):
        return None
    folder = Path(str(config.start_from)).expanduser()
    inside = RunFolder(folder).model
    return inside if (inside / CONFIG).is_file() else folder


def read_initial_weights(config: DetectorConfig, teacher: str) -> InitialWeights | None:
    """Read the weights that ``start_from`` names; None without ``start_from``.

    Args:
        config: The recipe's section ``detector``, checked with :func:`check_detector`.
        teacher: The teacher of the new model. With another teacher, classifier and embedding layer are not used.

    Raises:
        ArtifactError: The model folder is damaged, or the weights cannot be downloaded.
    """
    if config.start_from is None:
        return None
    folder = start_folder(config)
    if folder is None:
        return InitialWeights(torchvision_tensors(), "open", ())
    model, known, _ = load_model(folder, fold=False)
    tensors = model.state_dict()
    if known.teacher != teacher:
        of_teacher = (*_OF_TEACHER, f"roi_heads.box_head.to_deltas.{model.roi_heads.box_head.text_layer}.")
        tensors = {name: value for name, value in tensors.items() if not name.startswith(of_teacher)}
    return InitialWeights(tensors, known.setting, known.base)


def torchvision_tensors() -> dict[str, Tensor]:
    """Return backbone, FPN and RPN of torchvision's Faster R-CNN (ResNet-50, COCO), by the names of our detector.

    Its box head has another architecture, and is left out.

    Raises:
        ArtifactError: The weights cannot be downloaded.
    """
    try:
        # Not the v2 weights: they are for an RPN with two convolutions, and an FPN with batch norm.
        model = fasterrcnn_resnet50_fpn(weights=FasterRCNN_ResNet50_FPN_Weights.COCO_V1, progress=False)
    except (OSError, RuntimeError) as error:
        raise ArtifactError(
            f"The COCO weights of torchvision cannot be downloaded: {error}. Connect to the internet for the first "
            "run, or remove detector.start_from."
        ) from error
    tensors = {name.replace("rpn.head.", "rpn.head.head."): value for name, value in model.state_dict().items()}
    return {name: value for name, value in tensors.items() if not name.startswith("roi_heads.")}


def _modules(names: Iterable[str]) -> list[str]:
    """Return the modules of parameters, once each: the names without the last part."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))
