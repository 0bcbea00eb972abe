"""The image of each XML file of Pascal VOC, or JSON file of LabelMe, by names and folders."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path, PurePath, PurePosixPath

from ezsd.data.formats.image_files import image_files
from ezsd.utils.format import counted, plural

IMAGE_FOLDERS = ("jpegimages", "images")


class VocImages:
    """The images of a data set by their name and stem, as the parts of their paths below its folder.

    Attributes:
        renamed: The XML files whose ``<filename>`` is another image than the one with their own stem, which is used.
        xml_files: The XML file of each image that was used.
        files: All images.
    """

    def __init__(self, folder: Path) -> None:
        self.by_name: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        self.files = image_files(folder)
        for path in self.files:
            for key in {path.name, path.stem}:
                self.by_name[key].append(path.relative_to(folder).parts)
        self.renamed: list[PurePath] = []
        self.xml_files: dict[PurePath, Path] = {}

    def find(self, xml: PurePath, name: str, folder: str) -> list[PurePath]:
        """Return the image of an XML file; several if all of them could be meant.

        The image at the place of the XML file among the images wins if its stem is that of the XML file, which is
        renamed together with the image, while the name in it is not.

        Args:
            xml: The XML file, relative to the folder of the data set.
            name: The name of the image in it, possibly with folders.
            folder: The folder in it.
        """
        return [PurePath(*parts) for parts in self._find(xml, path_parts(name), path_parts(folder))]

    def _find(self, xml: PurePath, name: tuple[str, ...], folder: tuple[str, ...]) -> list[tuple[str, ...]]:
        last = name[-1] if name else xml.stem
        said = name if len(name) > 1 else (*folder, *name)
        own, named = ([*self.by_name.get(key, ())] for key in (xml.stem, last))
        named = [path for path in named if path[-1] == last] or named
        if xml.stem not in (last, PurePosixPath(last).stem):
            nearest = _nearest(own, xml.parts, said)
            if len(nearest) == 1 and _is_mirrored(nearest[0], xml.parts):
                if named:
                    self.renamed.append(xml)
                return nearest
            own = own or [*self.by_name.get(PurePosixPath(last).stem, ())]
            return _nearest(_with_end(named, name) or named or own, xml.parts, said)
        if len(name) > 1 and (exact := _with_end(named, name)):
            return _nearest(exact, xml.parts, said)
        same = named == own
        named = _nearest(named, xml.parts, said)
        own = named if same else _nearest(own, xml.parts, said)
        if named and own and _shared(own[0][:-1], xml.parts[:-1]) > _shared(named[0][:-1], xml.parts[:-1]):
            return [*named, *own]  # the one has the name with its suffix, the other one the folders
        return named or own


def unlabelled_notes(images: VocImages, folder: Path, used: Iterable[str], kind: str) -> tuple[str, ...]:
    """Return a note on images without an annotation file, which are not used, unlike in YOLO.

    Args:
        images: All images of the data set.
        folder: The data set.
        used: The images with an annotation file, relative to the folder.
        kind: The kind of annotation file, "XML" or "JSON".
    """
    names = {folder / name for name in used}
    without = [path for path in images.files if path not in names]
    if not without:
        return ()
    return (f"{len(without):,} of {counted(len(images.files), 'image')} {plural(len(without), 'has', 'have')} no "
            f"{kind} file and {plural(len(without), 'is', 'are')} not used (the first is {without[0]}). An image "
            f"without objects needs a {kind} file without objects.",)  # fmt: skip


def path_parts(text: str) -> tuple[str, ...]:
    """Return the parts of a path with either kind of slashes."""
    return tuple(part for part in re.split(r"[\\/]", text.strip()) if part not in ("", ".", ".."))


def _with_end(paths: Sequence[tuple[str, ...]], parts: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [path for path in paths if path[-len(parts) :] == parts]


def _nearest(images: Sequence[tuple[str, ...]], xml: tuple[str, ...], said: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return those of the images that lie like an XML file: in the same folders, but below another one.

    Args:
        images: The images that could be meant.
        xml: The XML file.
        said: The parts of the path in the XML file.
    """
    folders = xml[:-1]
    scores: tuple[Callable[[tuple[str, ...]], int], ...] = (
        lambda path: _shared(path[:-1], folders),
        lambda path: len(path) == len(xml),
        lambda path: _same_end(path, said),
        lambda path: any(part.lower() in IMAGE_FOLDERS for part in path[:-1]),
    )
    left = [*images]
    for score in scores:
        if len(left) < 2:
            break
        values = [score(path) for path in left]
        best = max(values)
        left = [path for path, value in zip(left, values, strict=True) if value == best]
    return left


def _same_end(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many parts at the end of two paths are the same."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_mirrored(image: tuple[str, ...], xml: tuple[str, ...]) -> bool:
    """Return whether an image lies like an XML file: at most one folder has another name."""
    one, other = image[:-1], xml[:-1]
    return _shared(one, other) >= max(len(one), len(other)) - 1


@lru_cache(maxsize=1 << 20)
def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Return how many folders two paths have in common, in this order."""
    if not one or not other:
        return 0
    if one[-1] == other[-1]:
        return 1 + _shared(one[:-1], other[:-1])
    return max(_shared(one[:-1], other), _shared(one, other[:-1]))
