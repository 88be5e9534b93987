"""What differs between databases of sparsities and of schemes: one class for each, chosen by the settings."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from unicuco_plugin.errors import LevelsError, StrategyError, clip
from unicuco_plugin.levels.linear import LinearLevels, write_linear
from unicuco_plugin.levels.packed import predict_packed_bytes, read_packed, unpack, write_packed
from unicuco_plugin.levels.record import LinearEntry
from unicuco_plugin.levels.scheme_sweep import solve_schemes
from unicuco_plugin.levels.settings import LevelSettings, resolve_schemes
from unicuco_plugin.levels.store import predict_bytes
from unicuco_plugin.levels.sweep import Factor, solve_levels

__all__ = ["Kind", "kind_of"]

Shapes = Mapping[str, tuple[int, int]]


class Kind(Protocol):
    """How the levels of a database are made, kept and read again.

    Attributes:
        shares: What each level counts for in a mean over all.
        fallback: How a linear is treated whose Hessian cannot be inverted.
    """

    shares: tuple[float, ...]
    fallback: str

    def check(self, shapes: Shapes) -> dict[str, str]:
        """Find the linears that can have no level, with the reasons.

        Raises:
            LevelsError: If the settings fit none, or contradict one.
        """

    def predict(self, shapes: Shapes, dtype: str) -> int:
        """Bytes of the files of these linears, at most."""

    def solve(self, name: str, group: Mapping[str, Tensor], factor: Factor) -> Callable[[Path], LinearEntry]:
        """Solve one linear at all levels.

        Args:
            name: Of the linear.
            group: The dense ``R x C`` weights of all linears that are given the same inputs.
            factor: Of these inputs' Hessian.

        Returns:
            What packs the levels and writes them into a database's folder.
        """

    def read(self, path: Path, entry: LinearEntry, level: int, like: Tensor) -> Tensor | None:
        """A stored linear at a level from 1 on, where its dense weight is; None where it has no such level."""


def kind_of(settings: LevelSettings) -> Kind:
    """What the settings ask for."""
    return _Schemes(settings) if settings.schemes else _Sparsities(settings)


class _Sparsities:
    fallback = "pruned by magnitude"

    def __init__(self, settings: LevelSettings) -> None:
        self._settings = settings
        self.shares = tuple(1 - sparsity for sparsity in settings.sparsities)

    def check(self, shapes: Shapes) -> dict[str, str]:
        return {}

    def predict(self, shapes: Shapes, dtype: str) -> int:
        return predict_bytes(
            shapes, self._settings.sparsities, getattr(torch, dtype).itemsize, self._settings.block_size
        )

    def solve(self, name: str, group: Mapping[str, Tensor], factor: Factor) -> Callable[[Path], LinearEntry]:
        dense = group[name]
        solved = solve_levels(dense, factor, self._settings.sparsities, block_size=self._settings.block_size)
        invertible = factor.invertible  # the factor itself is let go before the file is written
        return lambda folder: write_linear(folder, name, dense, solved, invertible=invertible)

    def read(self, path: Path, entry: LinearEntry, level: int, like: Tensor) -> Tensor:
        return LinearLevels.open(path, entry.shape, len(entry.zeros)).decode(level, like.device)


class _Schemes:
    fallback = "rounded to nearest"

    def __init__(self, settings: LevelSettings) -> None:
        self._settings = settings
        self.shares = (1.0,) * len(settings.schemes)

    def check(self, shapes: Shapes) -> dict[str, str]:
        left_out: dict[str, str] = {}
        for name, (_, columns) in shapes.items():
            try:
                if not resolve_schemes(self._settings.schemes, columns):
                    left_out[name] = f"{columns} inputs, which no group divides"
            except StrategyError as error:
                raise LevelsError(f"{clip(name, 100)}: {error}") from error
        if len(left_out) == len(shapes):
            raise LevelsError(
                f"schemes {', '.join(self._settings.schemes)} fit no linear: groups of 32, 64 and 128 divide the "
                "inputs of none; give :channel"
            )
        return left_out

    def predict(self, shapes: Shapes, dtype: str) -> int:
        return predict_packed_bytes(shapes, self._settings.schemes, dtype)

    def solve(self, name: str, group: Mapping[str, Tensor], factor: Factor) -> Callable[[Path], LinearEntry]:
        dense = group[name]
        # A server packs linears of one module that read the same tensor; a scale of scales is then one for all of them.
        packed = [weight for other, weight in group.items() if other.rpartition(".")[0] == name.rpartition(".")[0]]
        solved = solve_schemes(
            dense,
            factor,
            resolve_schemes(self._settings.schemes, dense.shape[1]),
            largest=torch.stack([weight.abs().max() for weight in packed]).max(),
            block_size=self._settings.block_size,
        )
        invertible = factor.invertible
        return lambda folder: write_packed(folder, name, solved, invertible=invertible)

    def read(self, path: Path, entry: LinearEntry, level: int, like: Tensor) -> Tensor | None:
        [scheme] = resolve_schemes(self._settings.schemes[level - 1 : level], entry.shape[1]) or [None]
        if scheme is None:
            return None
        return unpack(scheme, read_packed(path, entry.shape, scheme, like.dtype), like.dtype, like.device)
