"""Teachers: vision-language models that are distilled into the detector."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ezsd.errors import RecipeError
from ezsd.recipe import Recipe, reads_densely
from ezsd.teacher.base import Teacher, check_dense, refuse_dense
from ezsd.teacher.norms import load_norms, save_norms
from ezsd.teacher.origin import runs_code
from ezsd.teacher.text_cache import text_embeddings

__all__ = ["Teacher", "check_dense", "check_teacher", "load_norms", "load_teacher", "save_norms", "text_embeddings"]


def load_teacher(spec: str, device: str = "cpu", norms: Path | None = None) -> Teacher:
    """Load the teacher that a recipe names.

    Args:
        spec: ``offline``; ``pocket`` (the packaged Pocket CLIP, for the pocket data set);
            ``open_clip:ARCH/PRETRAINED``, where PRETRAINED is a tag of open_clip or the path of a checkpoint;
            ``hf-hub:ORG/NAME`` or ``local-dir:PATH``, a repository or folder in open_clip's format; or
            ``module:function``, where the function takes no arguments and returns a :class:`Teacher`.
        device: The device the teacher is moved to.
        norms: Path of adapted norm parameters (``norms.safetensors`` of stage adapt); None = not adapted.

    Raises:
        RecipeError: If ``spec`` is unknown or cannot be imported.
        ArtifactError: If weights are missing, damaged or not the expected ones.
        MissingExtraError: If a package is not installed.
    """
    teacher = _load(spec).to(device)
    if norms is not None:
        load_norms(teacher, norms)
    return teacher


def check_teacher(recipe: Recipe) -> None:
    """Raise RecipeError if a recipe embeds many boxes in one pass, and its teacher cannot. The teacher is not loaded.

    Teachers of other packages (``module:function``) are not known here; see :func:`check_dense`.
    """
    kind, _, rest = recipe.teacher.partition(":")
    if kind in ("open_clip", "hf-hub", "local-dir") and rest and reads_densely(recipe):
        from ezsd.teacher.clip import dense_problem_of

        refuse_dense(recipe.teacher, dense_problem_of(recipe.teacher))


def _load(spec: str) -> Teacher:
    kind, _, rest = spec.partition(":")
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
    if kind in ("hf-hub", "local-dir") and rest:
        from ezsd.teacher.clip import load_folder

        return load_folder(spec)
    if runs_code(spec):
        return _load_custom(spec, kind, rest)
    raise RecipeError(
        f"teacher: {spec} is unknown. Expected offline, pocket, open_clip:ARCH/PRETRAINED "
        "(for example open_clip:ViT-B-32/openai), hf-hub:ORG/NAME, local-dir:PATH, or module:function."
    )


def _load_custom(spec: str, module: str, function: str) -> Teacher:
    try:
        make = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"teacher: {spec} cannot be imported: {error}. Expected module:function.") from error
    teacher = make()
    if not isinstance(teacher, Teacher):
        raise RecipeError(
            f"teacher: {spec} returned {type(teacher).__name__}, which lacks methods of ezsd.teacher.Teacher."
        )
    return teacher
