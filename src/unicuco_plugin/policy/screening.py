r"""Which moves of a strategy lower the posterior's bound most, without predicting all of them.

A flip of unit ``i`` changes the squared distance to each measured strategy by one term, so the means after all single
flips, and after a few at once, take a number per measured strategy each, and no product of matrices:

    ``|y - X_j|^2 = |x - X_j|^2 + sum_(i flipped) (1 - 2 x_i) (1 - 2 X_ji) / ell_i^2``

The sum of what its flips change alone, to second order in the squared distances, orders a move well enough to leave
out nearly all; the mean, in single precision, most of the rest. In 1 700 steps on SmolLM2's depth posterior and on
synthetic ones (30 to 80 units), the best of up to 1 600 moves was never behind the 17th by the sum of exact changes,
nor behind the 13th by the mean; in 264 steps on synthetic ones never behind the 9th by either sum. Where the deviation
matters more than the mean it can be; so a path ends only where none of all that were summed is better.

====== ========= ===============================================================
symbol shape     meaning
====== ========= ===============================================================
units  m x f     flips: units that change sides, ``d`` where a move has fewer
S      p x n     squared distances to the measured strategies, in length scales
D      p x d x n what each flip adds to these
====== ========= ===============================================================
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.spaces.removal import flip
from unicuco_plugin.spaces.space import Flips

__all__ = ["LEAST_GAIN", "Screening"]

# Moves that are kept by the sum of their flips, and of these by the mean: three times what was needed, and as many.
_SUMMED = 48
_BOUNDED = 16
# What a flip may change a squared distance by, in length scales, to be taken to second order: then it is wrong by 0.03
# of a correlation at most, where it leaves a measured strategy, and by far less anywhere else.
_NEAR = 0.25
# What a move has to gain: less is rounding.
LEAST_GAIN = 1e-9
# Numbers in ``D`` at once: what a core's cache holds.
_CELLS = 2**19


@dataclass(frozen=True)
class Screening:
    """The best moves of whole units on one posterior.

    Attributes:
        posterior: Of the measurements; its coordinates are the units, and it has no prior.
        space: Lists moves.
        kappa: ``mean + kappa std`` is lowered.
    """

    posterior: Posterior
    space: Flips
    kappa: float

    @classmethod
    def fits(cls, posterior: Posterior) -> bool:
        """Whether a posterior is such a one."""
        return posterior.prior is None and torch.equal(posterior.G, torch.eye(len(posterior.G), dtype=torch.float64))

    @cached_property
    def _signs(self) -> Tensor:
        """``(1 - 2 X_ji) / ell_i^2``, ``(d + 1) x n``; the last row is that of no unit."""
        signs = ((1.0 - 2.0 * self.posterior.X) / self.posterior.ell**2).T
        return torch.cat([signs, signs.new_zeros(1, signs.shape[1])])

    @cached_property
    def _single(self) -> Tensor:
        """The same in single precision."""
        return self._signs.float()

    @cached_property
    def _far(self) -> Tensor:
        """Units whose flip changes squared distances by too much for a series."""
        return (self.posterior.ell**-2.0 > _NEAR).nonzero()[:, 0]

    @cached_property
    def _squares(self) -> Tensor:
        return self._single.square()

    @cached_property
    def _alpha(self) -> Tensor:
        return self.posterior.alpha.float()

    def best(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where the best move of ``p x d`` strategies leads, and its bound; the strategy itself where it has none."""
        rows = max(1, _CELLS // self._signs.numel())
        found = [self._best(part) for part in x.split(rows)]
        moved, bounds = zip(*found, strict=True)
        return torch.cat(moved), torch.cat(bounds)

    def _best(self, x: Tensor) -> tuple[Tensor, Tensor]:
        S, sign = self._distances(x), self._sides(x)
        units, exists = self._summed(x, self._alone(S, sign))
        means = self._means(self._changed(sign.float(), self._single, units).add_(S.float()[:, None]))
        some = means.masked_fill(~exists, torch.inf).topk(min(_BOUNDED, means.shape[1]), largest=False).indices
        few = units.gather(1, some[..., None].expand(-1, -1, units.shape[-1]))
        flips, bound = self._least(S, sign, few)
        stuck = bound >= self._bound(S) - LEAST_GAIN
        if bool(stuck.any()):
            flips[stuck], bound[stuck] = self._least(S[stuck], sign[stuck], units[stuck])
        return flip(x, flips), bound

    def _least(self, S: Tensor, sign: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """Of moves ``p x m x f`` each row's best, ``p x f``, and its bound."""
        squares = self._changed(sign, self._signs, units).add_(S[:, None])
        bound, place = self._bound(squares.flatten(0, 1)).view(units.shape[:2]).min(-1)
        return units[torch.arange(len(units)), place], bound

    def _bound(self, squares: Tensor) -> Tensor:
        mean, std = self.posterior.predict_at(squares)
        return mean + self.kappa * std

    def _changed(self, sign: Tensor, signs: Tensor, units: Tensor) -> Tensor:
        """What moves ``p x m x f`` add to squared distances, ``p x m x n``."""
        of = sign.gather(1, units.flatten(1)).view(-1, units.shape[-1])
        found = embedding_bag(units.flatten(0, 1), signs, mode="sum", per_sample_weights=of)
        return found.view(*units.shape[:2], -1)

    def _summed(self, x: Tensor, alone: Tensor) -> tuple[Tensor, Tensor]:
        """The moves whose flips promise most alone, ``p x kept x f``, and which of them exist."""
        row, units = self.space.flips(x)
        if bool((row.diff() < 0).any()):
            order = row.argsort(stable=True)
            row, units = row[order], units[order]
        change = alone[row, units[:, 0]]
        for column in units.T[1:]:
            change += alone[row, column]
        count = row.bincount(minlength=len(x))
        first = count.cumsum(0) - count
        padded = change.new_full((len(x), max(1, int(count.max()))), torch.inf)
        padded[row, torch.arange(len(row)) - first[row]] = change
        values, place = padded.topk(min(_SUMMED, padded.shape[1]), largest=False)
        none = units.new_full((1, units.shape[1]), x.shape[1])
        exists = values < torch.inf
        return torch.cat([units, none])[torch.where(exists, first[:, None] + place, len(units))], exists

    def singles(self, x: Tensor) -> Tensor:
        """What each flip alone adds to the mean, ``p x d`` to ``p x (d + 1)``, standardised, single precision.

        To second order, but for units whose flip is a long way. With ``a = sqrt(5 S)``, the Matérn 5/2 correlation
        ``(1 + a + a^2/3) e^-a`` has the derivatives ``-5/6 (1 + a) e^-a`` and ``25/12 e^-a`` in ``S``, both bounded; a
        flip's sign squared is one.
        """
        return self._alone(self._distances(x), self._sides(x))

    def _alone(self, S: Tensor, sign: Tensor) -> Tensor:
        a = S.float().mul_(5.0).clamp_min_(1e-12).sqrt_()
        second = a.neg().exp_().mul_(self._alpha)
        first = a.add_(1.0).mul_(second)
        change = (first @ self._single.T).mul_(sign.float()).mul_(-5.0 / 6.0)
        change.add_(second @ self._squares.T, alpha=25.0 / 24.0)
        if len(self._far):
            squares = torch.addcmul(S.float()[:, None], sign[:, self._far, None].float(), self._single[self._far])
            change[:, self._far] = self._means(squares) - self._means(S.float())[:, None]
        return change

    def _sides(self, x: Tensor) -> Tensor:
        """``1 - 2 x``, and nothing for no unit."""
        return torch.cat([1.0 - 2.0 * x, x.new_zeros(len(x), 1)], 1)

    def _distances(self, x: Tensor) -> Tensor:
        return torch.cdist(x / self.posterior.ell, self.posterior.points).square()

    def _means(self, S: Tensor) -> Tensor:
        """Means at squared distances ``... x n``, which are overwritten, but for a constant and a factor."""
        r = S.mul_(5.0).clamp_min_(1e-12).sqrt_()
        decay = r.neg().exp_()
        # Matérn 5/2 by Horner, in place: what else is slow here is memory.
        return (r.div(3.0).add_(1.0).mul_(r).add_(1.0).mul_(decay)) @ self._alpha
