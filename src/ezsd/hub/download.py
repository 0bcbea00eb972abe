"""Download a model folder from a hub: safetensors and JSON only, all files from one commit."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from ezsd.detector.model_folder import CONFIG, FILES, MODEL
from ezsd.errors import ArtifactError

# The base of the last one has all errors of the HTTP client.
HUB_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, HfHubHTTPError.__bases__[0])

# Files that run code when they are loaded, or that are code.
_UNSAFE = (
    ".bin", ".ckpt", ".dll", ".dylib", ".h5", ".ipynb", ".joblib", ".keras", ".npy", ".pb", ".pickle", ".pkl", ".pt",
    ".pth", ".py", ".pyc", ".sh", ".so",
)  # fmt: skip
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")

logger = logging.getLogger(__name__)


def is_repository(model: str) -> bool:
    """Return whether ``model`` can be a repository ("org/name" or "org/name@revision") and is no file or folder."""
    return _REPOSITORY.fullmatch(model) is not None and not Path(model).exists()


def download_model(repository: str) -> Path:
    """Download the model folder of a repository, or find it in the cache of huggingface-hub.

    Args:
        repository: "org/name", or "org/name@revision" with a branch, a tag or a commit. A commit pins the content:
            what was downloaded once is used again without the network.

    Returns:
        The model folder. All its files are from one commit.

    Raises:
        ArtifactError: The repository cannot be reached, is no model of ezsd, or contains pickle or code.
    """
    repo_id, _, revision = repository.partition("@")
    if _COMMIT.fullmatch(revision):
        try:
            return _fetch(repo_id, revision, [MODEL, CONFIG], cached=True)
        except LocalEntryNotFoundError:
            pass  # it was not downloaded yet
    try:
        info = HfApi().model_info(repo_id, revision=revision or None)
        files = {entry.rfilename for entry in info.siblings or ()}
        check_files(repository, files)
        commit = str(info.sha)
        # The weights come last: a cache that has them has the optional files, too.
        folder = _fetch(repo_id, commit, [name for name in FILES if name in files])
    except HUB_ERRORS as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ArtifactError(
            f"{repository} is neither a folder here nor a model on the hub that can be downloaded: {reason}. "
            "Check the name, the revision and the connection; private repositories need: hf auth login"
        ) from None
    if revision != commit:
        logger.info(f"{repo_id} is at commit {commit}; pin it with {repo_id}@{commit}")
    return folder


def check_files(repository: str, files: set[str]) -> None:
    """Check the names of the files in a repository.

    Raises:
        ArtifactError: The weights or the config are missing, or there is a file that could run code.
    """
    if unsafe := sorted(name for name in files if Path(name).suffix.lower() in _UNSAFE):
        raise ArtifactError(
            f"{repository} is refused: it contains {', '.join(unsafe[:5])}, which can run code when it is loaded. ezsd "
            f"loads {MODEL} and {CONFIG} only; ask its owner for a repository without pickle and code."
        )
    if missing := [name for name in (MODEL, CONFIG) if name not in files]:
        raise ArtifactError(f"{repository} is not a model of ezsd: it has no {' and no '.join(missing)}.")


def _fetch(repo_id: str, commit: str, names: list[str], cached: bool = False) -> Path:
    paths = [hf_hub_download(repo_id, name, revision=commit, local_files_only=cached) for name in names]
    return Path(paths[-1]).parent
