"""Read YAML whose aliases cannot fill the memory ("billion laughs")."""

from __future__ import annotations

from typing import Any

import yaml

_LARGEST = 10_000  # values that aliases can become in any file
_GROWTH = 10  # times as many values as are written


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the plain values of a YAML text.

    Raises:
        yaml.YAMLError: The text is not YAML, is nested too deeply, or its aliases contain themselves or repeat so much
            that few lines become millions of values.
    """
    reader = loader(text)
    try:
        node = reader.get_single_node()
        if node is None:
            return None
        counts: dict[int, int] = {}
        if _count(node, counts) > max(_LARGEST, _GROWTH * len(counts)):
            raise yaml.YAMLError("its aliases (*name) repeat too many values; write out the values that are needed")
        return reader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    finally:
        reader.dispose()


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """Return the number of values in a node with its aliases written out; ``counts`` has those of nodes by id."""
    known = counts.get(id(node))
    if known == 0:
        raise yaml.YAMLError("an alias (*name) contains itself; write out the values that are needed")
    if known is None:
        counts[id(node)] = 0
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,)))
        counts[id(node)] = known = 1 + sum(_count(part, counts) for part in parts)
    return known
