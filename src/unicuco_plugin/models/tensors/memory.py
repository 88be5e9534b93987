"""How much memory there is, of a device or of the host, and what to do when it is full."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch

from unicuco_plugin.errors import EvaluationError, clip

__all__ = ["LOWER", "Fitting", "free_memory", "lacks_memory", "letting_go", "spare_memory", "warn"]

_Found = TypeVar("_Found")

LOWER = "the tokens of a window (seq_length; rank_seq_length in a training's ranking), or take a narrower dtype"
"""What takes memory wherever a model is run on windows."""

# How allocators other than that of PyTorch say it: cuBLAS', and the host's.
_SAYINGS = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "can't allocate memory")
_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Of control groups of either version: files with the limit and what is used, and what is said of files in memory.
_FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))
_SECOND = ("memory.max", "memory.current", ("active_file", "inactive_file"))


def lacks_memory(error: BaseException) -> bool:
    """Whether what was tried may go well with less in memory; what came of such an error counts as one."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(said in str(error) for said in _SAYINGS):
        return True
    return isinstance(error, EvaluationError) and error.__cause__ is not None and lacks_memory(error.__cause__)


def warn(text: str) -> None:
    """Say something in the package's log, where nobody else is to be told."""
    logging.getLogger("unicuco_plugin").warning(text)


class Fitting:
    """Does something with as many at a time as memory has room for: half as many whenever it has none.

    Args:
        most: At a time, at first.
        what: They are, and what is done with them, in two forms for messages.
        lower: What to lower where one alone does not fit, for the message.
        say: Told in one line that there are fewer at a time; the package's log by default.
    """

    def __init__(
        self,
        most: int,
        what: tuple[str, str] = ("window", "windows are run"),
        lower: str = LOWER,
        say: Callable[[str], None] = warn,
    ) -> None:
        self._most, self._what, self._lower, self._say = most, what, lower, say

    def __call__(self, call: Callable[[int], _Found], count: int | None = None) -> _Found:
        """Return what ``call`` makes of so many at a time; whenever memory is full it begins anew.

        Args:
            call: Given how many; one alone is tried twice, since what was kept for speed may have been let go.
            count: How many there are.

        Raises:
            EvaluationError: If one alone does not fit; the message says what to lower.
        """
        last = False
        while True:
            size = self._most if count is None else min(self._most, count)
            try:
                return call(size)
            except (RuntimeError, MemoryError) as error:
                if not lacks_memory(error):
                    raise
                if last:
                    raise EvaluationError(
                        f"one {self._what[0]} alone does not fit the memory of the device ({clip(str(error))}): lower "
                        f"{self._lower}"
                    ) from error
            # Only here, where nothing refers to the tensors of the attempt any more, are they free.
            torch.cuda.empty_cache()
            last = size == 1
            self._most = max(size // 2, 1)
            if self._most < size:
                self._say(f"out of memory: {self._what[1]} {self._most} at a time from here on, not {size}")


@contextmanager
def letting_go(shed: Callable[[], None]) -> Iterator[None]:
    """Call ``shed``, which frees what is kept for speed alone, when memory has no room for what is in the ``with``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if lacks_memory(error):
            shed()
        raise


def free_memory(device: torch.device | str = "cpu") -> float:
    """Bytes that this process may still take on a device; infinite where nobody can tell.

    Args:
        device: Of the host, the limit of a control group counts as well.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return _free_on_host() if kind == "cpu" else float("inf")


def spare_memory(device: torch.device | str) -> float:
    """Bytes that may be taken for states or weights that could wait elsewhere: a quarter of what is free, a choice."""
    return 0.25 * free_memory(device)


def _free_on_host() -> float:
    free = [float("inf"), *_free_in_groups()]
    try:
        lines = (_PROC / "meminfo").read_text(encoding="ascii").splitlines()
        free += [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            free.append(float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    return min(free)


def _free_in_groups() -> Iterator[float]:
    """What each control group with a limit leaves, of all that this process is in, of either version."""
    with suppress(OSError, ValueError):
        for line in (_PROC / "self/cgroup").read_text(encoding="utf8").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            root = _GROUPS / "memory" if kinds else _GROUPS
            names = _SECOND if not kinds else _FIRST
            # In a container the path may be the host's, of which only the root is seen.
            for inside in (path.strip("/"), *(str(above) for above in Path(path.strip("/")).parents)):
                yield from _free_in(root / inside, *names)


def _free_in(group: Path, limit: str, used: str, files: tuple[str, str]) -> Iterator[float]:
    with suppress(OSError, ValueError):  # "max", for one
        most = int((group / limit).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        cached = sum(int(stat.get(name, 0)) for name in files)  # files just written, too
        yield float(most + cached - int((group / used).read_text(encoding="ascii")))
