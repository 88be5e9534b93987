r"""Groups of units that leave together, such as those of a block, and which of them may do so at a budget.

====== ===== =====================================================================
symbol shape meaning
====== ===== =====================================================================
x      p x d shares of bits that go, 1 where a unit is gone
gone   p x b bools: which groups have left
worth  p x b how much sooner one group leaves than another
full   b     bits of each group
narrow b     bits that each saves at the most if it stays
target p     bits to save
====== ===== =====================================================================
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Leaving"]

_GONE = 1.0 - 1e-9  # shares are quotients of whole numbers


@dataclass(frozen=True)
class Leaving:
    """Which groups of units have left.

    Attributes:
        groups: Of unit numbers; no unit is in two of them.
        needed: Groups of these, by number, of each of which one has to stay; no group is in two of them.
        bits: Of each of ``d`` units, whole numbers.
        saved: By each at the most if it stays.
    """

    groups: tuple[tuple[int, ...], ...]
    needed: tuple[tuple[int, ...], ...]
    bits: tuple[int, ...]
    saved: tuple[int, ...]

    @cached_property
    def members(self) -> Tensor:
        """``d x b`` of 0 and 1, float64."""
        inside = torch.zeros(len(self.bits), len(self.groups), dtype=torch.float64)
        for column, units in enumerate(self.groups):
            inside[list(units), column] = 1.0
        return inside

    @cached_property
    def full(self) -> Tensor:
        """``full``, float64."""
        return torch.tensor(self.bits, dtype=torch.float64) @ self.members

    @cached_property
    def narrow(self) -> Tensor:
        """``narrow``, float64."""
        return torch.tensor(self.saved, dtype=torch.float64) @ self.members

    @cached_property
    def _rest(self) -> float:
        """What units in no group save at the most."""
        return sum(self.saved) - self.narrow.sum().item()

    def gone(self, x: Tensor) -> Tensor:
        """Which groups are gone of strategies ``p x d``."""
        return (x >= _GONE)[:, [units[0] for units in self.groups]]

    def units(self, gone: Tensor) -> Tensor:
        """The units of groups that are gone, ``p x d`` bools."""
        return gone.double() @ self.members.T > 0.5

    def share(self, s: Tensor) -> Tensor:
        """Mean shares of each group, ``p x d`` to ``p x b``."""
        return (s * torch.tensor(self.bits, dtype=torch.float64)) @ self.members / self.full

    def asked(self, s: Tensor, worth: Tensor) -> Tensor:
        """How many groups have to leave, the worthiest first, to save what ``p x d`` shares save: ``p``.

        What units cannot save while they stay is made up for by groups that leave.
        """
        bits = torch.tensor(self.bits, dtype=torch.float64)
        kept = torch.minimum(s, torch.tensor(self.saved, dtype=torch.float64) / bits) * bits
        gains = (self.full - kept @ self.members).gather(-1, worth.argsort(dim=-1, descending=True, stable=True))
        return (gains.cumsum(-1) - 0.5 * gains < (s * bits - kept).sum(-1, keepdim=True)).sum(-1)

    def kept_last(self, worth: Tensor) -> Tensor:
        """``worth``, the lowest of each needed groups at minus infinity: this one stays."""
        for members in map(list, self.needed):
            lowest = torch.tensor(members)[worth[:, members].argmin(-1)]
            worth = worth.scatter(-1, lowest[:, None], -torch.inf)
        return worth

    @cached_property
    def fewest(self) -> Tensor:
        """The groups that are gone where all save what they can, ``b`` bools."""
        return self.kept_last((self.full - self.narrow)[None] + 1.0)[0] > -torch.inf

    @cached_property
    def most(self) -> float:
        """The most bits that can be saved."""
        return self._reach(self.fewest[None]).item()

    def allowed(self, gone: Tensor) -> Tensor:
        """Whether one of each needed groups stays, ``p``."""
        lacking = [gone[:, list(members)].all(-1) for members in self.needed]
        return ~torch.stack([torch.zeros(len(gone), dtype=torch.bool), *lacking]).any(0)

    def meets(self, gone: Tensor, target: Tensor) -> Tensor:
        """Whether groups may be gone at a budget: alone they do not exceed it, and with the others they reach it."""
        alone = torch.where(gone, self.full, 0.0).sum(-1)
        return self.allowed(gone) & (alone <= target) & (self._reach(gone) >= target - 0.5)

    def _reach(self, gone: Tensor) -> Tensor:
        """Bits that are saved at the most where some groups are gone, ``p``."""
        return torch.where(gone, self.full, self.narrow).sum(-1) + self._rest

    def worthiest(self, worth: Tensor, count: Tensor) -> Tensor:
        """So many groups, the worthiest first, as far as they may leave: ``p x b`` bools."""
        worth = self.kept_last(worth)
        place = worth.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return (place < count[:, None]) & (worth > -torch.inf)

    def clamped(self, worth: Tensor, count: Tensor, target: Tensor) -> Tensor:
        """Groups that leave, the worthiest first: as near to ``count`` of them as a budget can be met with.

        Args:
            worth: ``p x b``; minus infinity keeps a group.
            count: ``p``.
            target: ``p`` bits to save; at most ``most``.

        Returns:
            ``gone``: they alone save no more than the target, where others that do suffice.
        """
        worth = self.kept_last(worth)
        order = worth.argsort(dim=-1, descending=True, stable=True)
        able = torch.isfinite(worth).sum(-1)
        full, more = self.full[order].cumsum(-1), (self.full - self.narrow)[order].cumsum(-1)
        zero = full.new_zeros(len(worth), 1)
        full, reach = torch.cat([zero, full], 1), torch.cat([zero, more], 1) + self.narrow.sum() + self._rest
        there = torch.arange(worth.shape[1] + 1) <= able[:, None]
        least = ((reach < target[:, None] - 0.5) & there).sum(-1)
        largest = ((full <= target[:, None]) & there).sum(-1) - 1
        gone = self.worthiest(worth, torch.maximum(torch.minimum(count, largest), torch.minimum(least, able)))
        # Groups of several sizes: the worthiest that may leave can be too small together.
        short = self._reach(gone) < target - 0.5
        return torch.where(short[:, None], self.fewest, gone)
