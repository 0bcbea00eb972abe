"""Teachers: vision-language models whose knowledge the detector learns."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ezsd.errors import RecipeError
from ezsd.teacher.base import Teacher
from ezsd.teacher.norms import load_norms, save_norms
from ezsd.teacher.text_cache import text_embeddings

__all__ = ["Teacher", "load_norms", "load_teacher", "save_norms", "text_embeddings"]


def load_teacher(spec: str, device: str = "cpu", norms: Path | None = None) -> Teacher:
    """Make the teacher that a recipe names.

    Args:
        spec: ``offline``; ``pocket`` (the packaged Pocket CLIP, for the pocket data set); ``open_clip:ARCH/PRETRAINED``
            where PRETRAINED is a tag of open_clip or the path of a checkpoint; or ``module:function``, called without
            arguments, which returns a :class:`Teacher`.
        device: where it computes.
        norms: adapted parameters (``norms.safetensors`` of stage adapt).

    Raises:
        RecipeError: there is no such teacher.
        ArtifactError: weights are missing, damaged or not the expected ones.
        MissingExtraError: a package is not installed.
    """
    teacher = _load(spec).to(device)
    if norms is not None:
        load_norms(teacher, norms)
    return teacher


def _load(spec: str) -> Teacher:
    kind, colon, rest = spec.partition(":")
    if spec == "offline":
        from ezsd.teacher.offline import load_offline

        return load_offline()
    if spec == "pocket":
        from ezsd.teacher.pocket import load_pocket

        return load_pocket()
    if kind == "open_clip" and rest:
        from ezsd.teacher.clip import load_clip
        from ezsd.teacher.pocket import register_architecture

        register_architecture()
        return load_clip(spec)
    if kind and colon and rest:
        return _load_custom(spec, kind, rest)
    raise RecipeError(
        f"teacher: {spec} is unknown. Expected offline, pocket, open_clip:ARCH/PRETRAINED "
        "(as in open_clip:ViT-B-32/openai), or module:function."
    )


def _load_custom(spec: str, module: str, function: str) -> Teacher:
    try:
        make = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"teacher: {spec} cannot be imported: {error}. Expected module:function.") from error
    teacher = make()
    if not isinstance(teacher, Teacher):
        raise RecipeError(f"teacher: {spec} returned {type(teacher).__name__}, which lacks methods of ezsd's Teacher.")
    return teacher
