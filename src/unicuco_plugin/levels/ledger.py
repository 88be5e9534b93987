"""The record of a build under way, which is on disk whenever it has grown."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from unicuco_plugin.levels.record import LevelsRecord, LinearEntry, write_record
from unicuco_plugin.progress import Progress

__all__ = ["Ledger"]


class Ledger:
    """What a build has done so far; any thread may add to it, and the one that builds reports.

    Args:
        folder: Of the database.
        record: What is there already.
        progress: Told how many linears are done.
    """

    def __init__(self, folder: Path, record: LevelsRecord, progress: Callable[[Progress], None]) -> None:
        self.folder, self.record, self._progress = folder, record, progress
        self._mark = time.perf_counter()
        self._turn = threading.RLock()

    def left(self, names: Iterable[str]) -> list[str]:
        """Those of some linears that are wanted and not yet stored, in their order."""
        with self._turn:
            wanted = set(self.record.expected) - self.record.linears.keys()
        return [name for name in names if name in wanted]

    def add(self, name: str, entry: LinearEntry) -> None:
        """Record a linear whose file is there; the order of linears is the model's, whoever was first.

        Raises:
            LevelsError: If the disk refuses.
        """
        with self._turn:
            now = time.perf_counter()
            seconds, self._mark = round(self.record.seconds + now - self._mark, 3), now
            grown = self.record.linears | {name: entry}
            ordered = {known: grown[known] for known in self.record.expected if known in grown}
            self._write(self.record.model_copy(update={"linears": ordered, "seconds": seconds}))

    def leave_out(self, names: Sequence[str]) -> None:
        """Take linears that no token reached out of the database: they stay dense.

        Raises:
            LevelsError: If the disk refuses.
        """
        with self._turn:
            if names:
                expected = tuple(name for name in self.record.expected if name not in names)
                self._write(self.record.model_copy(update={"expected": expected}))

    def tell(self, stage: str, message: str = "") -> None:
        """Report progress."""
        total = len(self.record.expected)
        self._progress(Progress(stage, len(self.record.linears), total, message=message))

    def _write(self, record: LevelsRecord) -> None:
        self.record = record
        write_record(self.folder, record)
