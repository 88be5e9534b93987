"""A database of schemes, opened for reading: every linear quantised in every scheme that it is offered."""

from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unicuco_plugin.errors import LevelsError, listed, quoted
from unicuco_plugin.levels.database import Database
from unicuco_plugin.levels.linear import read_tensors
from unicuco_plugin.levels.packed import stored_shapes, unpack
from unicuco_plugin.models.tensors.memory import lacks_memory
from unicuco_plugin.models.tensors.storage import sent
from unicuco_plugin.schemes import Scheme

__all__ = ["SchemeLevels"]


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
        shapes = stored_shapes(self._find(linear, scheme), entry.shape, self.weight_bytes)
        tensors = read_tensors(self.folder / entry.file, shapes)
        return {name.removeprefix(f"{scheme}."): tensor for name, tensor in zip(shapes, tensors, strict=True)}

    def decode(self, linear: str, scheme: str, device: torch.device | str = "cpu") -> Tensor:
        """The ``R x C`` weight that a client computes with, in the model's dtype.

        Raises:
            LevelsError: See :meth:`packed`.
        """
        # A client looks at the shape on the host.
        tensors = {
            name: tensor if name == "weight_shape" else sent(tensor, device)
            for name, tensor in self.packed(linear, scheme).items()
        }
        try:
            return unpack(self._find(linear, scheme), tensors, self.record.torch_dtype)
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
