"""Upload the model of a run to a hub, with its model card, in one commit."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from safetensors.torch import save

from ezsd._version import __version__
from ezsd.detector.model_config import ModelConfig
from ezsd.detector.model_folder import CONFIG, FILES, NORMS, read_config
from ezsd.errors import ArtifactError
from ezsd.hub.card import model_card
from ezsd.hub.download import HUB_ERRORS
from ezsd.run_folder import RunFolder
from ezsd.utils.files import read_tensors


def push_to_hub(run: str | Path, repo_id: str, *, private: bool = True, license_name: str = "other") -> str:
    """Upload the model of a run to a repository, with a model card written from the run.

    Paths of this machine, such as that of the teacher's weights, are not uploaded.

    Args:
        run: The run folder.
        repo_id: "org/name"; the repository is created if it does not exist.
        private: Whether a new repository is private.
        license_name: The license of the weights as the hub names it, such as "apache-2.0".

    Returns:
        The pinned name "org/name@commit", for :meth:`ezsd.Detector.load`.

    Raises:
        ArtifactError: The run has no model, or the upload fails.
    """
    folder = RunFolder(Path(run))
    folder.check()
    config = read_config(folder.model).published()
    card = model_card(folder, repo_id, license_name)
    files = [path for name in FILES if (path := folder.model / name).is_file()]
    added = [CommitOperationAdd(path.name, _published(path, config)) for path in files]
    try:
        HfApi().create_repo(repo_id, private=private, exist_ok=True)
        there = {entry.rfilename for entry in HfApi().model_info(repo_id).siblings or ()}
        of_earlier_model = (there & set(FILES)) - {path.name for path in files}
        removed = [CommitOperationDelete(name) for name in sorted(of_earlier_model)]
        commit = HfApi().create_commit(
            repo_id,
            [*added, *removed, CommitOperationAdd("README.md", card.encode())],
            commit_message=f"Model of ezsd {__version__}",
        )
    except HUB_ERRORS as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ArtifactError(
            f"{repo_id} cannot be written: {reason}. Check the name and the connection, and log in with: hf auth login"
        ) from None
    return f"{repo_id}@{commit.oid}"


def _published(path: Path, config: ModelConfig) -> bytes | Path:
    """Return a file of a model folder as it is uploaded."""
    if path.name == CONFIG:
        return (json.dumps(config.model_dump(mode="json"), indent=2) + "\n").encode()
    if path.name == NORMS:
        tensors, metadata = read_tensors(path)
        return save(tensors, {**metadata, "teacher": config.teacher})
    return path
