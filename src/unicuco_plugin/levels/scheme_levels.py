"""A database of schemes, opened for reading: every linear quantised in every scheme that it is offered."""

from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unicuco_plugin.errors import LevelsError, listed, quoted
from unicuco_plugin.levels.database import Database
from unicuco_plugin.levels.packed import read_packed, unpack
from unicuco_plugin.levels.record import read_record
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.tensors.memory import lacks_memory
from unicuco_plugin.schemes import Scheme

__all__ = ["SchemeLevels", "open_levels"]


class SchemeLevels(Database):
    """A complete database of schemes, opened for reading.

    Schemes of a linear are asked for by their resolved names: ``W4A16`` of 576 inputs is ``W4A16:g64``.
    """

    kind: ClassVar[Literal["sparsities", "schemes"]] = "schemes"

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder

    @property
    def schemes(self) -> tuple[str, ...]:
        """Names as they were asked for."""
        return self.record.settings.schemes

    def offered(self, linear: str) -> tuple[Scheme, ...]:
        """What a linear is stored in, resolved for its inputs, the most bits per weight first.

        Raises:
            LevelsError: If the database has no such linear.
        """
        return self.record.offered(self.entry(linear))

    def loss(self, linear: str, scheme: str) -> float:
        """What a scheme loses of a linear's outputs on the calibration windows, as the toolkit's GPTQ counts it.

        Raises:
            LevelsError: If the database has no such linear, or not in this scheme.
        """
        self._find(linear, scheme)
        return self.entry(linear).losses[scheme]

    def packed(self, linear: str, scheme: str) -> dict[str, Tensor]:
        """The tensors that compressed-tensors writes for a linear, by their names without the linear's.

        Raises:
            LevelsError: If the database has no such linear, or not in this scheme; or if its file is damaged.
        """
        entry = self.entry(linear)
        return read_packed(self.folder / entry.file, entry.shape, self._find(linear, scheme), self.record.torch_dtype)

    def decode(self, linear: str, scheme: str, device: torch.device | str = "cpu") -> Tensor:
        """The ``R x C`` weight that a client computes with, in the model's dtype.

        Raises:
            LevelsError: See :meth:`packed`.
        """
        found, tensors = self._find(linear, scheme), self.packed(linear, scheme)
        try:
            return unpack(found, tensors, self.record.torch_dtype, device)
        except (RuntimeError, ValueError, TypeError) as error:
            if lacks_memory(error):
                raise
            path = self.folder / self.entry(linear).file
            raise LevelsError(f"level file {path} is damaged: {scheme} cannot be decoded") from error

    def _find(self, linear: str, scheme: str) -> Scheme:
        offered = {found.name: found for found in self.offered(linear)}
        if scheme not in offered:
            raise LevelsError(
                f"level database {self.folder} has {linear} in {listed(list(offered))}, not in {quoted(scheme)}"
            )
        return offered[scheme]


def open_levels(folder: str | Path) -> Levels | SchemeLevels:
    """Open a database of either kind.

    Raises:
        LevelsError: See :meth:`Database.open`.
    """
    kind = read_record(Path(folder).expanduser()).settings.kind
    return SchemeLevels.open(folder) if kind == "schemes" else Levels.open(folder)
