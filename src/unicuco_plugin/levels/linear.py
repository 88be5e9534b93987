"""One linear of a level database on disk: a safetensors file with a bitmask and the surviving values of every level.

A file holds, for a weight of ``R x C`` and levels 1 … E: ``mask.e``, ``R x ceil(C / 8)`` bytes with the first column
in the highest bit, set where a weight survives; ``values.e``, the survivors in row order; ``zeros``, ``(E + 1) x R``
int32, the zero weights of every row, dense first; ``losses``, ``E x R`` float32. Level 0 is the dense weight, never
stored.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unicuco_plugin.errors import LevelsError
from unicuco_plugin.files.facts import FileFacts
from unicuco_plugin.files.received import check_tensors, open_regular
from unicuco_plugin.levels.record import RECORD, LinearEntry, write_file
from unicuco_plugin.levels.sweep import Solved
from unicuco_plugin.models.tensors.memory import lacks_memory
from unicuco_plugin.models.tensors.sending import sent

__all__ = [
    "SAME_WIDTH",
    "LinearLevels",
    "check_contents",
    "check_file",
    "read_tensors",
    "store_tensors",
    "write_linear",
]

# Entry b: the eight bits of byte b, highest first, one byte each, seen as one integer.
_BITS = torch.from_numpy(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)).view(torch.int64).flatten()
# The integer of as many bytes as a number: its bits.
SAME_WIDTH = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class LinearLevels:
    """One linear at every level; weights are read from the disk when they are decoded.

    Attributes:
        path: Its file.
        shape: Rows R and columns C of the weight.
        zeros: ``(E + 1) x R`` int64, zero weights of every row; level 0 is dense.
        losses: ``(E + 1) x R`` float64, reconstruction loss of every row; 0 at level 0.
    """

    path: Path
    shape: tuple[int, int]
    zeros: Tensor
    losses: Tensor

    @classmethod
    def open(cls, path: Path, shape: tuple[int, int], levels: int) -> Self:
        """Read counts and losses; the file stays mapped only while it is read.

        Raises:
            LevelsError: If the file is missing or damaged.
        """
        rows, columns = shape
        zeros, losses = read_tensors(path, {"zeros": (levels + 1, rows), "losses": (levels, rows)})
        if zeros.min() < 0 or zeros.max() > columns or not losses.isfinite().all():
            raise LevelsError(f"level file {path} is damaged: zeros must be in [0, {columns}], and losses finite")
        dense = losses.new_zeros((1, shape[0]))
        return cls(path, shape, zeros.long(), torch.cat([dense, losses]).double())

    def decode(self, level: int, device: torch.device | str = "cpu") -> Tensor:
        """Return the ``R x C`` weight of a level from 1 to E, in its own dtype.

        Raises:
            LevelsError: If the file is missing or damaged, or has no such level.
        """
        if not 1 <= level < len(self.zeros):
            raise LevelsError(f"level must be from 1 to {len(self.zeros) - 1}, got {level}: {self.path} has no other")
        rows, columns = self.shape
        survivors = rows * columns - int(self.zeros[level].sum())
        parts = read_tensors(self.path, {f"mask.{level}": (rows, -(-columns // 8)), f"values.{level}": (survivors,)})
        mask, values = (sent(part, device) for part in parts)
        try:
            return _expand(mask, values, self.shape)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            if lacks_memory(error):
                raise
            raise LevelsError(f"level file {self.path} is damaged: mask.{level} does not fit its values") from error


def write_linear(folder: Path, name: str, dense: Tensor, solved: Solved, *, invertible: bool = True) -> LinearEntry:
    """Write one linear's file, durably; it is there whole or not at all.

    Args:
        folder: The database.
        name: Full module name.
        dense: The ``R x C`` dense weight.
        solved: Its levels.
        invertible: For the entry.
    """
    survives = solved.weights != 0
    zeros = torch.cat([(dense == 0).sum(1)[None], (~survives).sum(2)])
    tensors = {"zeros": zeros.int().cpu(), "losses": solved.losses.float().cpu()}
    for level, (mask, weight) in enumerate(zip(survives, solved.weights, strict=True), start=1):
        tensors[f"mask.{level}"] = torch.from_numpy(np.packbits(mask.cpu().numpy(), axis=1))
        tensors[f"values.{level}"] = weight[mask].cpu()
    return store_tensors(
        folder,
        name,
        tensors,
        shape=(dense.shape[0], dense.shape[1]),
        zeros=tuple(zeros[1:].sum(1).tolist()),
        invertible=invertible,
    )


def store_tensors(folder: Path, name: str, tensors: dict[str, Tensor], **facts: Any) -> LinearEntry:  # noqa: ANN401
    """Write a linear's tensors as its file, durably and whole or not at all; ``facts`` are for its entry.

    Raises:
        LevelsError: If the disk refuses.
    """
    data = save(tensors, metadata={"linear": name})
    file = f"{name}.safetensors"
    write_file(folder / file, data)
    return LinearEntry(file=file, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), **facts)


def check_contents(folder: Path, entries: Mapping[str, LinearEntry]) -> Iterator[tuple[str, LevelsError | None]]:
    """Compare files with their checksums, as many side by side as there are threads.

    Returns:
        Every name with what is wrong with its file, in the order of ``entries``.
    """

    def find(entry: LinearEntry) -> LevelsError | None:
        try:
            check_file(folder, entry, content=True)
        except LevelsError as error:
            return error
        return None

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from zip(entries, pool.map(find, entries.values()), strict=True)


def check_file(folder: Path, entry: LinearEntry, *, content: bool) -> None:
    """Compare a linear's file with its entry: its size, and its checksum where ``content`` is asked for.

    A file whose checksum was right before, and which has not changed since, is not read again.

    Raises:
        LevelsError: If the file is missing, no regular file of its own, of another size, or edited.
    """
    path = folder / entry.file
    try:
        with open_regular(path, follow=False) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.bytes:
                raise LevelsError(
                    f"level file {path} is truncated or replaced: expected {entry.bytes} bytes, got {size}; "
                    "unicuco levels build --resume solves it again"
                )
            facts = FileFacts(path) if content else None
            if facts is None or facts.get("sha256") == entry.sha256:
                return
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                raise LevelsError(
                    f"level file {path} was edited or damaged: its checksum does not match {RECORD}; "
                    "unicuco levels build --resume solves it again"
                )
            facts.keep({"sha256": entry.sha256})
    except OSError as error:
        raise LevelsError(f"level file {path} cannot be read: {error}") from error


def _expand(mask: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Put values where the bits of a mask are set; on the CPU by NumPy, which searches eight times as fast."""
    if mask.device.type == "cpu":
        bits = np.unpackbits(mask.numpy(), axis=1, count=shape[1])
        raw = values.view(SAME_WIDTH[values.itemsize]).numpy()  # NumPy has no bfloat16
        weight = np.zeros(shape[0] * shape[1], dtype=raw.dtype)
        weight[np.flatnonzero(bits.view(np.bool_))] = raw
        return torch.from_numpy(weight).view(values.dtype).view(shape)
    bits_of = sent(_BITS, mask.device)[mask.int()].view(torch.bool).view(len(mask), -1)
    return values.new_zeros(shape).masked_scatter_(bits_of[:, : shape[1]], values)


def read_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Tensor, ...]:
    """Read tensors that must have these shapes; what a header claims costs no memory before it is checked.

    Raises:
        LevelsError: If the file is missing or damaged.
    """
    try:
        check_tensors(path, follow=False)
        with safe_open(path, framework="pt") as file:
            for name, shape in shapes.items():
                found = tuple(file.get_slice(name).get_shape())
                if found != shape:
                    raise LevelsError(f"level file {path} is damaged: {name} must have shape {shape}, got {found}")
            return tuple(file.get_tensor(name) for name in shapes)
    except (OSError, SafetensorError) as error:
        raise LevelsError(f"level file {path} cannot be read: {error}") from error
