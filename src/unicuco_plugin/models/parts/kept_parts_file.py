"""Kept parts in a file of their own, beside a checkpoint or for a recipe: safetensors under another suffix."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from unicuco_plugin.errors import StrategyError, clip, quoted
from unicuco_plugin.files.received import check_tensors
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.payload import Payload

__all__ = ["KEPT_PARTS_FILE", "read_kept_parts", "write_kept_parts"]

# Loaders, vLLM among them, take every *.safetensors in a folder for weights.
KEPT_PARTS_FILE = "structured.parts"
_KEPT, _BIAS = "kept.", "bias."
_FORMAT = {"format": "unicuco kept parts 1"}
_MEASURED, _DIGEST = "measured", "digest"
_NAME = "kept_parts"


def write_kept_parts(path: Path, parts: KeptParts) -> None:
    """Write kept parts: ``kept.<module>``, 32-bit indices, and ``bias.<module>`` in the dtype it has.

    Raises:
        OSError: If the disk refuses.
    """
    tensors = {f"{_KEPT}{name}": torch.tensor(kept, dtype=torch.int32) for name, kept in parts.kept.items()}
    tensors |= {f"{_BIAS}{name}": bias.detach().cpu().contiguous() for name, bias in parts.biases.items()}
    told = {_MEASURED: str(parts.measured).lower(), _DIGEST: Payload(_NAME, tensors).digest}
    save_file(tensors, path, metadata=_FORMAT | told)


def read_kept_parts(path: Path) -> KeptParts:
    """Read kept parts back; whether they are a model's is for :meth:`KeptParts.check`.

    Raises:
        StrategyError: If the file is missing, truncated, edited, or holds something else.
    """
    try:
        check_tensors(path)
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise StrategyError(
            f"kept parts {path} cannot be read: {error}; it must be a whole structured.parts of an export, or leave it "
            "out"
        ) from error
    other = [name for name in tensors if not name.startswith((_KEPT, _BIAS))]
    if other or not tensors:
        raise StrategyError(
            f"kept parts {path} must hold kept.* and bias.*, got {', '.join(map(clip, other[:3])) or 'nothing'}"
        )
    for name, tensor in tensors.items():
        indices = name.startswith(_KEPT)
        right = tensor.dtype == torch.int32 if indices else tensor.is_floating_point() and tensor.isfinite().all()
        if tensor.dim() != 1 or not right:
            rule = "a list of 32-bit indices" if indices else "a list of finite numbers"
            raise StrategyError(f"kept parts {path}: {quoted(name)} must be {rule}")
    kept = {name.removeprefix(_KEPT): tuple(t.tolist()) for name, t in tensors.items() if name.startswith(_KEPT)}
    biases = {name.removeprefix(_BIAS): t for name, t in tensors.items() if name.startswith(_BIAS)}
    try:
        Payload(_NAME, tensors).check(_NAME, told.get(_DIGEST))  # files of older versions tell none
    except StrategyError as error:
        raise StrategyError(f"kept parts {path}: {error}") from error
    return KeptParts(kept, biases, told.get(_MEASURED) == "true")
