"""Problems of a data set, grouped by kind."""

from __future__ import annotations

from collections.abc import Iterator

_SHOWN = 10


class Problems:
    """Messages in order, grouped by kind, so that many of one kind do not hide the others."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[tuple[str, str]]] = {}

    def add(self, kind: str, text: str, where: str = "") -> None:
        """Add a message.

        Args:
            kind: The kind, in the plural.
            text: The message.
            where: The file and line that the message is about; empty for those that :meth:`lines` is given.
        """
        self._kinds.setdefault(kind, []).append((where, text))

    def extend(self, other: Problems) -> None:
        """Add the messages of another collection."""
        for kind, entries in other._kinds.items():
            self._kinds.setdefault(kind, []).extend(entries)

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def __iter__(self) -> Iterator[str]:
        return self.lines()

    def lines(self, file: str = "") -> Iterator[str]:
        """Yield all messages with the place that they are about.

        Args:
            file: The place of messages without one of their own.
        """
        for entries in self._kinds.values():
            for where, text in entries:
                yield _placed(where or file, text)

    def counts(self) -> dict[str, int]:
        """Return the number of messages of each kind."""
        return {kind: len(entries) for kind, entries in self._kinds.items()}

    def shown(self, file: str = "") -> list[str]:
        """Return the first ten messages of each kind, and how many more there are.

        Args:
            file: The place of messages without one of their own.
        """
        lines = []
        for kind, entries in self._kinds.items():
            lines += [_placed(where or file, text) for where, text in entries[:_SHOWN]]
            if len(entries) > _SHOWN:
                own = any(where for where, _ in entries)
                lines.append(_placed("" if own else file, f"and {len(entries) - _SHOWN:,} more: {kind}."))
        return lines


def _placed(where: str, text: str) -> str:
    return f"{where}: {text}" if where else text
