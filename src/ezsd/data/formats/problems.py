"""Problems of a data set, grouped by kind."""

from __future__ import annotations

from collections.abc import Iterator

_SHOWN = 10


class Problems:
    """Messages in order, grouped by kind, so that many of one kind do not hide the others."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[str]] = {}

    def add(self, kind: str, text: str) -> None:
        """Add a message."""
        self._kinds.setdefault(kind, []).append(text)

    def extend(self, other: Problems) -> None:
        """Add the messages of another collection."""
        for kind, texts in other._kinds.items():
            self._kinds.setdefault(kind, []).extend(texts)

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def __iter__(self) -> Iterator[str]:
        for texts in self._kinds.values():
            yield from texts

    def counts(self) -> dict[str, int]:
        """Return the number of messages of each kind."""
        return {kind: len(texts) for kind, texts in self._kinds.items()}

    def shown(self) -> list[str]:
        """Return the first ten messages of each kind, and how many more there are."""
        lines = []
        for kind, texts in self._kinds.items():
            lines += texts[:_SHOWN]
            if len(texts) > _SHOWN:
                lines.append(f"and {len(texts) - _SHOWN:,} more: {kind}.")
        return lines
