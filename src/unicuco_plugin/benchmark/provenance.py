"""What made a measured result: command, date, machine and versions."""

import platform
import time
from pathlib import Path
from typing import Any

import torch

__all__ = ["provenance"]

_PROCESSORS = Path("/proc/cpuinfo")


def provenance(command: str, device: str = "cpu") -> dict[str, Any]:
    """Describe this process, as plain JSON data to put in front of a result.

    Args:
        command: What was called.
        device: Where the model runs.

    Returns:
        ``command``; ``date`` as ISO 8601; ``machine``: processor, accelerator (on CUDA), threads, versions.
    """
    kind = torch.device(device).type
    machine = {
        "processor": _processor(),
        **({"accelerator": torch.cuda.get_device_name(device)} if kind == "cuda" else {}),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return {"command": command, "date": time.strftime("%Y-%m-%d"), "machine": machine}


def _processor() -> str:
    if _PROCESSORS.exists():
        for line in _PROCESSORS.read_text(encoding="utf8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
