"""Where a teacher comes from, by its name in a recipe: code, files, or weights that a package names. Loads nothing."""

from __future__ import annotations

from dataclasses import dataclass

SHIPPED = ("offline", "pocket")
_OF_OPEN_CLIP = ("open_clip", "hf-hub", "local-dir")


@dataclass(frozen=True)
class Foreign:
    """What is foreign in a teacher, which is therefore not loaded only because a model from elsewhere names it.

    Attributes:
        reason: A sentence about the teacher: "it is ...".
        named: How a user who has the teacher and trusts it names it.
    """

    reason: str
    named: str


def runs_code(teacher: str) -> bool:
    """Return whether loading a teacher imports a module and calls a function of it (``module:function``)."""
    kind, _, rest = teacher.partition(":")
    return bool(kind and rest) and kind not in _OF_OPEN_CLIP


def foreign(teacher: str) -> Foreign | None:
    """Return what is foreign in a teacher.

    None for the teachers of packages: ``offline``, ``pocket``, and ``open_clip:ARCH/TAG`` with a tag of open_clip; and
    for names that are no teacher.
    """
    kind, _, rest = teacher.partition(":")
    if teacher in SHIPPED:
        return None
    if kind == "open_clip":
        import open_clip

        architecture, _, weights = rest.partition("/")
        if open_clip.is_pretrained_cfg(architecture, weights):
            return None
        return Foreign("it is a file of another machine", f"open_clip:{architecture}/PATH")
    if kind == "local-dir":
        return Foreign("it is a folder of another machine", "local-dir:PATH")
    if kind == "hf-hub":
        return Foreign("it is another repository, whose content can change", teacher)
    return Foreign("it is code", teacher) if runs_code(teacher) else None
