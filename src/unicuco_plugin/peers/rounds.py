"""The steps of a search on disk, one JSON object each, so that a kill costs one step and no more."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from unicuco_plugin.journal.journal import Journal

__all__ = ["Rounds"]


class Rounds:
    """Numbered steps of one search, from 0, without gaps; used in a ``with`` block.

    Args:
        path: The journal's file, made or continued; None keeps the steps in memory alone.
        header: The arguments that determine the search, plain JSON data.

    Raises:
        JournalError: If the journal is in use, damaged, or belongs to other arguments.
    """

    def __init__(self, path: Path | None, header: Mapping[str, object]) -> None:
        self._journal = None if path is None else Journal.open(path, header, resume=True)
        notes = {} if self._journal is None else self._journal.notes()
        self._steps: list[dict[str, Any]] = [notes[name] for name in sorted(notes)]

    def __enter__(self) -> Self:
        """Steps of earlier runs are there already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self._steps[number]

    def add(self, step: dict[str, Any]) -> None:
        """Append a step, on disk when this returns."""
        if self._journal is not None:
            self._journal.write_note(f"{len(self._steps):08d}", step)
        self._steps.append(step)

    def once(self, number: int, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Read a step, or make and append it where it is the next one."""
        if number == len(self._steps):
            self.add(make())
        return self._steps[number]
