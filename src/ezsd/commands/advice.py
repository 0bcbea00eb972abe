"""What names and boxes will make hard, told before a run. It stops nobody: the user may know better."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from ezsd.data.categories import CategorySplit, load_split
from ezsd.errors import ArtifactError, MissingExtraError
from ezsd.teacher import load_teacher, text_embeddings

_FEW_BOXES, _FEW_IMAGES = 20, 100
_SHOWN = 10
_KNOWN = "coco_48_17"  # a split whose names people and teachers tell apart: the measure for others


def advice_on_data(
    split: CategorySplit, boxes: Mapping[str, int], val_boxes: Mapping[str, int], images: int, val_images: int
) -> list[str]:
    """Tell what is scarce, and what is done with boxes of novel names.

    Args:
        split: the user's names.
        boxes: in the annotations that are learned from, by name; 0 where a category has none.
        val_boxes: in annotations of their own for the val part, by name; empty when there are none.
        images: of the train part.
        val_images: of the val part.
    """
    notes = []
    if images < _FEW_IMAGES:
        notes.append(f"{images} train images are few: the detector learns where objects are from these alone, and "
                    f"figures from {val_images} val images say little. A few hundred make a difference.")  # fmt: skip
    few = [f'"{name}" ({boxes[name]})' for name in split.base if boxes[name] < _FEW_BOXES]
    if few:
        notes.append(f"Few boxes of {_listed(few)}; a name with fewer than about {_FEW_BOXES} is hardly learned. "
                    "Label more of it, or leave it out.")  # fmt: skip
    counts = {name: boxes.get(name, 0) + val_boxes.get(name, 0) for name in split.novel}
    labelled = [f'"{name}" ({count})' for name, count in counts.items() if count]
    if labelled:
        notes.append(f"There are boxes of novel names: {_listed(labelled)}. They are not used for training, only for "
                    "the figures.")  # fmt: skip
    else:
        notes.append("There is no box of a novel name: how well they are found can be looked at (ezsd detect), but not "
                    "measured. Boxes of them in the val images would do.")  # fmt: skip
    unused = [f'"{name}"' for name, count in boxes.items() if not count and name not in split.names]
    if unused:
        notes.append(f"Categories without boxes are left out: {_listed(unused)}. What is to be found without boxes "
                    "belongs to --novel.")  # fmt: skip
    return notes


def advice_on_names(split: CategorySplit, given: Sequence[str] = ()) -> list[str]:
    """Tell names that differ only by case, spaces, hyphens or plural, and names that were given more than once.

    Args:
        split: the user's names.
        given: names as the user gave them, when ``split`` has each of them once.
    """
    twice = [f'"{name}"' for name, count in Counter(given).items() if count > 1]
    notes = [f"Given more than once, and taken once: {_listed(twice)}."] if twice else []
    pairs = [_pair(split, *pair) for pair in _lookalikes(split.names)]
    if pairs:
        notes.append(f"These differ only by case, spaces, hyphens or plural: {_listed(pairs)}. If they mean the same, "
                    "keep one; the teacher cannot tell them apart.")  # fmt: skip
    return notes


def advice_on_teacher(spec: str, split: CategorySplit, prompt: str) -> list[str]:
    """Tell names whose texts are nearly the same to the teacher.

    Nearly the same is: nearer than any two of the 65 names of COCO 48/17, which teachers do tell apart. Cosines of
    one teacher mean nothing for another, so no number would do (dog and cat: 0.46 offline, 0.94 CLIP ViT-B/32).

    Args:
        spec: the teacher, as in a recipe. One that cannot be loaded is told of, and nothing is compared.
        split: the user's names.
        prompt: text with ``{name}``.

    Raises:
        RecipeError: there is no such teacher.
    """
    try:
        teacher = load_teacher(spec)
    except (ArtifactError, MissingExtraError) as error:
        return [f"Names could not be compared as the teacher {spec} sees them. {error}"]
    cosines, known = (
        (text @ text.T).triu(diagonal=1)
        for text in (text_embeddings(teacher, names, prompt) for names in (split.names, load_split(_KNOWN).names))
    )
    limit = float(known.max()) + 1e-4  # rounding
    rows = (cosines > limit).nonzero()
    values = cosines[rows[:, 0], rows[:, 1]]
    lookalikes = set(_lookalikes(split.names))
    near = [
        (split.names[row], split.names[column], float(value))
        for (row, column), value in zip(rows.tolist(), values.tolist(), strict=True)
    ]
    pairs = [f"{_pair(split, first, second)} {cosine:.2f}"
             for first, second, cosine in sorted(near, key=lambda entry: -entry[2])
             if (first, second) not in lookalikes]  # fmt: skip
    if not pairs:
        return []
    return [f"The teacher {spec} hardly tells these apart: {_listed(pairs)} (cosine of their texts; no two names of "
            f"COCO 48/17 come nearer than {limit:.2f}). Objects of one will be called the other: merge them, or choose "
            "words that differ more."]  # fmt: skip


def _pair(split: CategorySplit, first: str, second: str) -> str:
    return " and ".join(f'"{name}" ({"base" if name in split.base else "novel"})' for name in (first, second))


def _lookalikes(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names with a spelling in common, in their order."""
    by_form: dict[str, list[str]] = defaultdict(list)
    for name in names:
        for form in _forms(name):
            by_form[form].append(name)
    place = {name: index for index, name in enumerate(names)}
    pairs = {(first, second) for group in by_form.values()
             for index, first in enumerate(group) for second in group[index + 1 :]}  # fmt: skip
    return sorted(pairs, key=lambda pair: (place[pair[0]], place[pair[1]]))


def _forms(name: str) -> set[str]:
    """The name without case, spaces and hyphens, as it is and as what it may be the plural of."""
    plain = "".join(letter for letter in name.casefold() if letter not in " -_")
    forms = {plain}
    for ending, singular in (("s", ""), ("es", ""), ("ies", "y")):
        if plain.endswith(ending) and len(plain) > len(ending) + 2:
            forms.add(plain.removesuffix(ending) + singular)
    return forms


def _listed(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(entries[:_SHOWN]) + more
