r"""Sets of units by weight: which totals exist, and the best set for each.

====== ===== ===========================================================================
symbol shape meaning
====== ===== ===========================================================================
n      d     parameters of each unit
m      k     units of each of k classes; a class is the units of one size
c      p x k how many units of each class go: a composition, whose total is ``T``
====== ===== ===========================================================================

Within a class the best ``c`` units are those of highest score, so a set is found class by class: of all ways to spend
what is left of ``T`` on the classes behind, each needs its best once. Of equally good compositions the one that takes
fewer of the earlier classes wins.

Source:
    The dynamic programme of the knapsack that has to be full (Bellman 1957), over classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unicuco_plugin.errors import StrategyError

__all__ = ["Subsets", "units_by_size"]

# Totals that are told apart: beyond, a set is not found while somebody waits. OpenELM-3B, 36 blocks of 36 sizes that
# are multiples of 256 neurons and of heads, has some hundred thousand.
_MOST = 2**20
# Whole numbers that float64 tells apart.
_EXACT = 2**53


def units_by_size(sizes: tuple[int, ...], among: Sequence[int] | None = None) -> dict[int, Tensor]:
    """Each size, rising → indices of the units that have it, of all or of those ``among``."""
    places = range(len(sizes)) if among is None else among
    return {size: torch.tensor([i for i in places if sizes[i] == size]) for size in sorted({sizes[i] for i in places})}


@dataclass(frozen=True)
class Subsets:
    """Sets of units that leave at least one of each group that is needed.

    Attributes:
        sizes: Parameters of each of ``d`` units.
        needed: Groups of indices, none in two of them; all units are one group where there is none.

    Raises:
        StrategyError: When totals are asked for, if there are more than a million.
    """

    sizes: tuple[int, ...]
    needed: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The groups of which one stays, of all units where none is named."""
        return self.needed or (tuple(range(len(self.sizes))),)

    @cached_property
    def _kinds(self) -> list[tuple[int, Tensor, bool, bool]]:
        """Size and members of every class, and whether it is the first and a part of a group: groups, then the rest."""
        inside = {index for group in self.groups for index in group}
        free = [index for index in range(len(self.sizes)) if index not in inside]
        kinds = []
        for group, bound in [*((sorted(group), True) for group in self.groups), (free, False)]:
            for place, (size, members) in enumerate(units_by_size(self.sizes, group).items()):
                kinds.append((size, members, place == 0, bound))
        return kinds

    @cached_property
    def _classes(self) -> list[tuple[int, Tensor]]:
        return [(size, members) for size, members, _, _ in self._kinds]

    @cached_property
    def _tails(self) -> list[Tensor]:
        """For every class, what it and those behind can weigh together: codes ``2 T + f``, rising.

        ``f`` is 1 where all units of the group's classes before are gone: then one of the rest of it has to stay.
        """
        tails = [torch.zeros(1, dtype=torch.int64)]
        for size, members, first, bound in reversed(self._kinds):
            steps = 2 * size * torch.arange(len(members) + 1)[:, None]
            behind = tails[-1]
            open_, empty = behind[behind % 2 == 0], behind[behind % 2 == 1]
            if steps.numel() * len(open_) > len(self._kinds) * 4 * _MOST:
                self._refuse()
            any_, last = (steps + open_).flatten(), torch.cat([(steps[:-1] + open_ + 1).flatten(), steps[-1] + empty])
            # Behind the last class of a group only open codes are left, so taking all of it leads nowhere.
            found = (last - 1 if first else torch.cat([any_, last])) if bound else any_
            tails.append(found.unique())
            if len(tails[-1]) > 2 * _MOST:
                self._refuse()
        return tails[::-1]

    def _refuse(self) -> None:
        count = len(set(self.sizes))
        raise StrategyError(
            f"units of {count} sizes make more than {_MOST:,} different sums, too many to meet a budget exactly; take "
            "the space sparsity"
        )

    @cached_property
    def totals(self) -> Tensor:
        """Every ``T`` above 0 that can go, rising, whole numbers."""
        found = self._tails[0] // 2
        return found[found > 0]

    def best(self, scores: Tensor, total: int) -> Tensor:
        """The sets of one total whose scores have the largest sum, ``p x d`` zeros and ones.

        Args:
            scores: ``p x d``.
            total: One of ``totals``.
        """
        sums, orders = [], []
        for _, members in self._classes:
            found, order = scores[:, members].to(torch.float64).sort(dim=-1, descending=True, stable=True)
            sums.append(torch.cat([torch.zeros(len(scores), 1, dtype=torch.float64), found.cumsum(-1)], -1))
            orders.append(order)
        ways = self._ways(total)
        worth = torch.zeros(len(scores), 1, dtype=torch.float64)
        chosen = []
        for step, to in zip(reversed(sums), reversed(ways), strict=True):
            reached = (step[:, None] + worth[:, to.clamp_min(0)]).masked_fill(to < 0, -torch.inf)
            take = reached.argmax(-1)
            worth = reached.gather(-1, take[..., None])[..., 0]
            chosen.append(take)
        rows, node = torch.arange(len(scores)), torch.zeros(len(scores), dtype=torch.long)
        counts = []
        for take, to in zip(reversed(chosen), ways, strict=True):
            count = take[rows, node]
            node = to[node, count]
            counts.append(count)
        return self._taken(orders, counts)

    def random(self, count: int, total: int, generator: torch.Generator) -> Tensor:
        """Random units of random compositions of one total, ``count x d``; each composition is as likely."""
        ways = self._ways(total)
        behind = [torch.ones(1, dtype=torch.float64)]
        for to in reversed(ways):
            behind.append((behind[-1][to.clamp_min(0)] * (to >= 0)).sum(-1))
        behind = behind[::-1]
        limit = int(min(behind[0].item(), _EXACT))
        drawn = torch.randint(limit, (count,), generator=generator).double() * (behind[0].item() / limit)
        node, counts = torch.zeros(count, dtype=torch.long), []
        for to, left in zip(ways, behind[1:], strict=True):
            reached = (left[to[node].clamp_min(0)] * (to[node] >= 0)).cumsum(-1)
            taken = (reached <= drawn[:, None]).sum(-1).clamp_max(to.shape[1] - 1)
            before = torch.cat([torch.zeros(count, 1, dtype=torch.float64), reached], -1)
            drawn = drawn - before.gather(-1, taken[:, None])[:, 0]
            node = to[node].gather(-1, taken[:, None])[:, 0]
            counts.append(taken)
        orders = [torch.rand(count, len(members), generator=generator).argsort(-1) for _, members in self._classes]
        return self._taken(orders, counts)

    def _taken(self, orders: list[Tensor], counts: list[Tensor]) -> Tensor:
        """Remove the first ``counts`` (``p`` each) of every class in the orders ``p x m``."""
        x = torch.zeros(len(counts[0]), len(self.sizes), dtype=torch.float64)
        for (_, members), order, count in zip(self._classes, orders, counts, strict=True):
            x[:, members] = (order.argsort(-1) < count[:, None]).double()
        return x

    def _ways(self, total: int) -> list[Tensor]:
        """For every class a table ``states x (m + 1)``: the state that taking so many leads to, or -1."""
        if total not in self._known:
            states, tables = torch.tensor([2 * total]), []
            for (size, members, first, bound), tail in zip(self._kinds, self._tails[1:], strict=True):
                take = torch.arange(len(members) + 1)
                left = states[:, None] // 2 - size * take
                empty = torch.ones_like(states) if first and bound else states % 2
                code = 2 * left + empty[:, None] * (take == len(members))
                place = torch.searchsorted(tail, code).clamp_max(len(tail) - 1)
                there = (left >= 0) & (tail[place] == code)
                states = code[there].unique()
                tables.append(torch.where(there, torch.searchsorted(states, code), -1))
            self._known[total] = tables
        return self._known[total]

    @cached_property
    def _known(self) -> dict[int, list[Tensor]]:
        return {}
