"""How much memory there is, of a device or of the host, and whether an error says that it is full."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["free_memory", "lacks_memory"]

# How allocators other than that of PyTorch say it: cuBLAS', and the host's.
_SAYINGS = ("CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Of control groups of either version: files with the limit and what is used, and what is said of files in memory.
_FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))
_SECOND = ("memory.max", "memory.current", ("active_file", "inactive_file"))


def lacks_memory(error: BaseException) -> bool:
    """Whether what was tried may go well with less in memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(said in str(error) for said in _SAYINGS)


def free_memory(device: torch.device | str = "cpu") -> float:
    """Bytes that this process may still take on a device; infinite where nobody can tell.

    Args:
        device: Of the host, the limit of a control group counts as well.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return _free_on_host() if kind == "cpu" else float("inf")


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
