"""A module of which some parts stay: the columns of its projection that are left."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import Parts, spread
from unicuco_plugin.models.parts.reduction import reduced

__all__ = ["Narrowed"]


@dataclass(frozen=True)
class Narrowed:
    """What stays of one module.

    Attributes:
        part: The whole module's parts.
        kept: Indices of those that stay, ascending.
        bias: What stands for the others, ``d``, float32 or as the model; None where the module may get none.
    """

    part: Parts
    kept: tuple[int, ...]
    bias: Tensor | None = None

    @classmethod
    def of(cls, part: Parts, parts: KeptParts) -> "Narrowed | None":
        """The same as a model's kept parts say it; None where the module keeps everything."""
        kept = parts.kept.get(part.name)
        return None if kept is None or len(kept) == part.count else cls(part, kept, parts.biases.get(part.name))

    @cached_property
    def key(self) -> tuple[tuple[int, ...], bytes | None]:
        """Equal for equal ones of one module."""
        return self.kept, None if self.bias is None else self.bias.detach().float().cpu().numpy().tobytes()

    def taken_out(self, decoder: Decoder, *, biased: bool = True) -> AbstractContextManager[None]:
        """The module without what goes, for a while.

        Args:
            decoder: The dense model.
            biased: Whether it gets the bias, if there is one.
        """
        biases = {self.part.name: self.bias} if self.bias is not None and biased else {}
        return reduced(decoder, KeptParts({self.part.name: self.kept}, biases), [self.part])

    def columns(self, whole: Tensor, *, biased: bool) -> tuple[Tensor, Tensor]:
        """What is left of a projection.

        Args:
            whole: ``d x c``, its weights; where ``biased``, the last column is the bias.
            biased: Whether it has a bias, or may get one.

        Returns:
            ``k`` indices of the columns that stay, and these, ``d x k``, with the bias for what goes.
        """
        columns = spread(self.kept, self.part.width)
        if biased:
            columns = torch.cat([columns, torch.tensor([whole.shape[1] - 1])])
        columns = columns.to(whole.device)
        kept = whole.index_select(1, columns)
        if self.bias is not None:
            kept[:, -1] += self.bias.to(kept)
        return columns, kept
