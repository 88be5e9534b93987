"""Workers on Ray that write down what they begin to measure, for benchmarks on one machine."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicuco_plugin.executors.on_ray import Opening, RayPool, RayWorkers


@dataclass(frozen=True)
class TalliedWorkers(RayWorkers):
    """Workers that add a line to a file whenever they begin with candidates: their process, and how many.

    Attributes:
        tally: The file, which all of them reach.
    """

    tally: str = ""

    @contextmanager
    def at(self, opening: Opening, device: str, store: int = 0) -> Iterator[RayPool]:
        """See ``RayWorkers``."""
        with super().at(_Tallied(opening, self.tally), device, store) as pool:
            yield pool


@dataclass(frozen=True)
class _Tallied:
    opening: Opening
    tally: str

    def open(self) -> Callable[..., Any]:
        """See ``Opening``."""
        measure = self.opening.open()

        def counted(fidelity: str, X: Any) -> Any:
            with Path(self.tally).open("a", encoding="ascii") as file:  # one short write, which is not torn
                file.write(f"{os.getpid()} {len(X)}\n")
            return measure(fidelity, X)

        return counted


def begun(tally: Path) -> list[tuple[int, int]]:
    """Processes, and the number of candidates that each began with, in order."""
    lines = tally.read_text(encoding="ascii").splitlines() if tally.exists() else []
    return [(int(pid), int(count)) for pid, count in (line.split() for line in lines)]
