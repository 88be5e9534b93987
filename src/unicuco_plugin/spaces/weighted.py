"""Units that weigh something: what every space over names and parameters has in common."""

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from unicuco_plugin.errors import StrategyError, quoted

__all__ = ["WeightedUnits"]


class WeightedUnits:
    """Names and weights of ``d`` units; a mixin for spaces with these two fields.

    Attributes:
        unit_names: Full module names, in the order of the model.
        unit_params: Parameters of each, as the space counts them.
    """

    unit_names: tuple[str, ...]
    unit_params: tuple[int, ...]

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the ``d`` units."""
        return self.unit_names

    @cached_property
    def params(self) -> Tensor:
        """``d`` parameters, float64."""
        return torch.tensor(self.unit_params, dtype=torch.float64)

    def sparsity(self, x: Tensor) -> Tensor:
        """Share of all units' parameters removed, ``p x d`` to ``p``."""
        return (x.to(self.params) @ self.params) / self.params.sum()

    def _row(self, units: Mapping[str, float]) -> Tensor:
        """Shares by name as one strategy, ``d``; those that are not named lose nothing."""
        known = set(self.units)
        for name, share in units.items():
            if name not in known or not 0.0 <= share <= 1.0:
                raise StrategyError(f"units[{quoted(name)}] must be a known unit with a share in [0, 1], got {share}")
        return torch.tensor([units.get(name, 0.0) for name in self.units], dtype=torch.float64)
