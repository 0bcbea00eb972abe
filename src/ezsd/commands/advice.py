"""Advice on names and boxes that are likely to cause poor results. Advice never stops a run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from ezsd.data.categories import CategorySplit, load_split
from ezsd.errors import ArtifactError, MissingExtraError
from ezsd.teacher import load_teacher, text_embeddings
from ezsd.utils.alike import ALIKE, alike_names
from ezsd.utils.format import counted

_FEW_BOXES, _FEW_IMAGES = 20, 100
_SHOWN = 10
_KNOWN = "coco_48_17"  # a split whose names teachers can distinguish: the reference for other splits


def advice_on_data(
    split: CategorySplit, boxes: Mapping[str, int], val_boxes: Mapping[str, int], images: int, val_images: int
) -> list[str]:
    """Return advice on small numbers of images and boxes, and on boxes of novel names.

    Args:
        split: The user's names.
        boxes: The number of boxes by name in the annotations; 0 for a category without boxes.
        val_boxes: The number of boxes by name in separate val annotations; empty without such a file.
        images: The number of train images.
        val_images: The number of val images.
    """
    notes = []
    if images < _FEW_IMAGES:
        notes.append(f"{counted(images, 'train image is', 'train images are')} few: the detector learns to locate "
                     f"objects from these images only, and figures measured on {counted(val_images, 'val image')} are "
                     "uncertain. A few hundred images give better results.")  # fmt: skip
    few = [f'"{name}" ({boxes[name]})' for name in split.base if boxes[name] < _FEW_BOXES]
    if few:
        notes.append(f"Few boxes of {_listed(few)}. A name with fewer than about {_FEW_BOXES} boxes is hard to learn. "
                    "Label more boxes, or remove the name.")  # fmt: skip
    counts = {name: boxes.get(name, 0) + val_boxes.get(name, 0) for name in split.novel}
    labeled = [f'"{name}" ({count})' for name, count in counts.items() if count]
    if labeled:
        notes.append(f"The annotations contain boxes of novel names: {_listed(labeled)}. They are used only to "
                    "compute the figures, not for training.")  # fmt: skip
    else:
        notes.append("The annotations contain no box of a novel name. Results for novel names can be viewed with ezsd "
                    "detect, but not measured. To measure them, label them in the val images.")  # fmt: skip
    unused = [f'"{name}"' for name, count in boxes.items() if not count and name not in split.names]
    if unused:
        notes.append(f"Categories without boxes in the train part are ignored: {_listed(unused)}. To detect them, add "
                    "them to --novel.")  # fmt: skip
    return notes


def advice_on_names(split: CategorySplit, given: Sequence[str] = ()) -> list[str]:
    """Return advice on names that differ only by case, spaces, hyphens or plural, and on duplicate names.

    Args:
        split: The user's names, without duplicates.
        given: The novel names as the user gave them, possibly with duplicates.
    """
    twice = [f'"{name}"' for name, count in Counter(given).items() if count > 1]
    notes = [f"Given more than once, used once: {_listed(twice)}."] if twice else []
    pairs = [_pair(split, *pair) for pair in _lookalikes(split.names)]
    if pairs:
        notes.append(f"These names differ only by case, spaces, hyphens or plural: {_listed(pairs)}. If they have the "
                    "same meaning, keep only one: the teacher cannot distinguish them.")  # fmt: skip
    return notes


def advice_on_teacher(spec: str, split: CategorySplit, prompt: str) -> list[str]:
    """Return advice on names whose text embeddings are nearly the same.

    Two names are nearly the same if their cosine similarity is above 0.95, or higher than that of any two of the 65
    names of COCO 48/17, which teachers can distinguish: similarities differ between teachers (dog and cat: 0.46
    offline, 0.94 CLIP ViT-B/32).

    Args:
        spec: The teacher, as in a recipe. If it cannot be loaded, the advice says so and names are not compared.
        split: The user's names.
        prompt: A text with ``{name}``.

    Raises:
        RecipeError: The teacher is unknown.
    """
    try:
        teacher = load_teacher(spec)
    except (ArtifactError, MissingExtraError) as error:
        return [f"Names could not be compared with the teacher {spec}. {error}"]
    reference = load_split(_KNOWN).names
    text, known = (text_embeddings(teacher, names, prompt).numpy() for names in (split.names, reference))
    usual = alike_names(reference, known, -1.0)[0][2]
    limit = min(usual + 1e-4, ALIKE)  # rounding
    lookalikes = set(_lookalikes(split.names))
    pairs = [
        f"{_pair(split, first, second)} {cosine:.2f}"
        for first, second, cosine in alike_names(split.names, text, limit)
        if (first, second) not in lookalikes
    ]
    if not pairs:
        return []
    return [f"The teacher {spec} can hardly distinguish these names: {_listed(pairs)} (cosine of their texts; at "
            f"most {usual:.2f} for the names of COCO 48/17). Their objects will be confused. Merge the names, or "
            "choose words that differ more."]  # fmt: skip


def _pair(split: CategorySplit, first: str, second: str) -> str:
    return " and ".join(f'"{name}" ({"base" if name in split.base else "novel"})' for name in (first, second))


def _lookalikes(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of names that share a normalized spelling, in the order of ``names``."""
    by_form: dict[str, list[str]] = defaultdict(list)
    for name in names:
        for form in _forms(name):
            by_form[form].append(name)
    place = {name: index for index, name in enumerate(names)}
    pairs = {(first, second) for group in by_form.values()
             for index, first in enumerate(group) for second in group[index + 1 :]}  # fmt: skip
    return sorted(pairs, key=lambda pair: (place[pair[0]], place[pair[1]]))


def _forms(name: str) -> set[str]:
    """Return the name without case, spaces and hyphens, and its possible singular forms."""
    plain = "".join(letter for letter in name.casefold() if letter not in " -_")
    forms = {plain}
    for ending, singular in (("s", ""), ("es", ""), ("ies", "y")):
        if plain.endswith(ending) and len(plain) > len(ending) + 2:
            forms.add(plain.removesuffix(ending) + singular)
    return forms


def _listed(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(entries[:_SHOWN]) + more
