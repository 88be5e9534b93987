"""How much memory there is, of a device or of the host, and whether an error says that it is full."""

import os
from pathlib import Path

import torch

__all__ = ["free_memory", "lacks_memory"]

# How allocators other than that of PyTorch say it: cuBLAS', and the host's.
_SAYINGS = ("CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


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
    free = [float("inf")]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free += [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            cached = int(stat.get("active_file", 0)) + int(stat.get("inactive_file", 0))  # files just written, too
            free.append(float(int(limit) + cached - int((group / "memory.current").read_text(encoding="ascii"))))
    except (OSError, ValueError, IndexError):
        if len(free) == 1 and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            free.append(float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    return min(free)
