"""What a run is about: a space over one model, what its units weigh, and what is known before the first strategy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.levels.database import Database
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.payload import Payload
from unicuco_plugin.policy.prior import Prior
from unicuco_plugin.search.groups import Groups
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.spaces.structured import ROUND_TO
from unicuco_plugin.spaces.units import Granularity
from unicuco_plugin.strategy import Plain

__all__ = ["ATTENTIONS", "HEADS", "Ask", "Start", "Subject", "UnitOptions"]


# What of a module goes.
HEADS, ATTENTIONS = "mlp-width,heads", "mlp-width,attention"


@dataclass(frozen=True)
class UnitOptions:
    """The units of spaces that zero weights (the first four attributes) and of spaces that cut parts (the others).

    Attributes:
        levels: Folder of the level database, also for spaces that store weights in fewer bits.
        granularity: ``block``, ``sublayer`` or ``linear``.
        ignore: Names of units or linears that stay dense, also for those spaces.
        bounds: Least and largest share, by pattern of unit names.
        ranking: Which head groups and neurons of a module go first, by plugin name.
        compensate: Whether biases replace the mean output of removed parts; if left out, where the form has room.
        round_to: How many neurons go together.
        units: What of a module goes, ``mlp-width,heads`` or ``mlp-width,attention``; if left out, as the form wants it.
        format: ``deci`` for spaces of halves or of parts: then each attention and MLP leaves the checkpoint by itself
            or stays, the first attention does, MLPs may be narrower, and nothing gets a bias. What goes by
            ``mlp-width,attention`` has this form, too.
    """

    levels: Path | None = None
    granularity: Granularity = "linear"
    ignore: tuple[str, ...] = ()
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ranking: str = "flap"
    compensate: bool | None = None
    round_to: int = ROUND_TO
    units: str | None = None
    format: str | None = None

    @property
    def form(self) -> str | None:
        """The form of checkpoint that the units are for; None where any will do."""
        return "deci" if self.units == ATTENTIONS else self.format

    @property
    def biased(self) -> bool:
        """Whether what loses some of its parts gets a bias for them."""
        return self.form is None if self.compensate is None else self.compensate


@dataclass(frozen=True)
class Start:
    """What a run knows before its first strategy.

    Attributes:
        first: Strategies to measure first, ``n x d``; None leaves them to the space.
        prior: What the surrogate's mean follows.
        tokens: Evaluation tokens this took.
        plain: Keys of strategies that plain methods would answer with, which ``first`` begins with → what those are
            called. They are measured on all ranking windows, whatever the search finds.
    """

    first: Tensor | None = None
    prior: Prior | None = None
    tokens: int = 0
    plain: Mapping[str, Plain] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """A space over one model.

    Attributes:
        space: Of the strategies.
        costs: What they cost; the search lowers one of them first.
        header: What determines the run beside its settings, plain JSON data.
        levels: The level database that candidates are stitched from, if they are.
        prepare: Makes the payload that strategies need, from windows of its own, where they need one.
        start: Finds out what is known beforehand, from the ranking windows and the payload; its work is journaled.
        groups: Of units that may go together; they are searched first.
        coverage: Share of the weights of all blocks that the units cover, where they are of linears.
        defaults: Settings of the search by name, for those that nobody has set.
    """

    space: Space
    costs: TableCosts
    header: dict[str, Any] = field(default_factory=dict)
    levels: Database | None = None
    prepare: Callable[[Tensor], Payload] | None = None
    start: Callable[[Journal, Tensor, Payload | None], Start] = lambda _journal, _windows, _payload: Start()
    groups: Groups | None = None
    coverage: float = 1.0
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def in_dtype(self, dtype: torch.dtype | None) -> "Subject":
        """The same with the costs of a checkpoint in the dtype that is exported, whatever it is measured in.

        Args:
            dtype: The dense checkpoint's own; None where its configuration does not say.
        """
        return self if dtype is None else replace(self, costs=self.costs.in_dtype(dtype))


@dataclass(frozen=True)
class Ask:
    """What a subject is built from.

    Attributes:
        name: The space's.
        decoder: The dense model.
        fingerprint: Of the model.
        units: As they were asked for, and checked.
    """

    name: str
    decoder: Decoder
    fingerprint: str
    units: UnitOptions
