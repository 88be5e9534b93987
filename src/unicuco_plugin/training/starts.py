"""First strategies of non-uniform sparsity: shapes of an allocation, spread over the budgets.

A shape is ``d`` scores ``z``; at a budget it is ``s = sigmoid(z + c)``, so shapes add up and mix.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.scores.activations import block_scores
from unicuco_plugin.scores.layerwise import ALPHA, LAMBDA, importances, outlier_ratios, spread_shares
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.spaces.units import name_block

__all__ = ["Allocation", "find_starts", "layerwise_scores"]

# Where OWL and DLP are asked: their shares differ by the same amounts at every sparsity.
_MIDDLE = 0.5
# Arithmetic progressions over depth: difference of score between the last block and the first. At one half, a unit of
# score moves a share by a quarter: plain shapes to learn from, not tuned.
_RAMPS = (-1.0, 1.0)
# Other shapes per budget, at most; the settings' number of first strategies usually ends them sooner.
_TURNS = 3


@dataclass(frozen=True)
class Allocation:
    """One budget with its slopes evened out.

    Attributes:
        budget: Share of all prunable weights that goes.
        scores: Of every round, uniform first, ``rounds + 1`` rows of ``d``; the last is the one to use.
        slopes: ``rounds x d``: ``d KL / d s`` of every unit at all scores but the last, nats per token.
    """

    budget: float
    scores: Tensor
    slopes: Tensor

    @property
    def growth(self) -> float:
        """``d KL / d s`` of all units together at uniform sparsity, nats per token."""
        return self.slopes[0].sum().item()

    @property
    def slope_shares(self) -> Tensor:
        """``rounds x d``: what share of all units' slope each has."""
        return self.slopes / self.slopes.sum(1, keepdim=True).clamp_min(1e-12)


def layerwise_scores(decoder: Decoder, windows: Tensor, space: Space) -> list[list[float]]:
    """The shapes of OWL and DLP: every unit has the score of its block's share, zero where that is half.

    Args:
        decoder: The dense model.
        windows: ``m x L`` token ids; each method runs the dense model on them once.
        space: The space ``sparsity``.

    Returns:
        ``d`` scores of each method.
    """
    found = []
    for score, width in ((outlier_ratios, LAMBDA), (importances, ALPHA)):
        scores = score(decoder, block_scores(decoder, windows))
        shares = spread_shares(decoder, scores, width, _MIDDLE).tolist()
        of = dict(zip(decoder.block_names, shares, strict=True))
        x = torch.tensor([of[name_block(unit)] for unit in space.units], dtype=torch.float64)
        found.append(space.scores(x[None])[0].tolist())
    return found


def find_starts(space: Space, found: Sequence[Allocation], others: Tensor | None = None) -> Tensor:
    """Evened-out scores at every budget, then other shapes, ``n x d``.

    Those are uniform, the shapes of ``others``, halfway between them and the evened-out ones, ramps over depth, and
    less and more than the evened-out ones. Every budget gets one, then every budget gets the next, so that wherever
    they are cut off budgets and shapes stay apart.

    Args:
        space: The space ``sparsity``.
        found: The anchors' allocations, by rising budget; none has uniform sparsity in their place.
        others: ``k x d`` scores of other methods.
    """
    d = len(space.units)
    flat = torch.zeros(d, dtype=torch.float64)
    depth = torch.linspace(-0.5, 0.5, d, dtype=torch.float64)
    shapes: list[Callable[[Tensor], Tensor]] = [lambda _: flat]
    for z in others if others is not None else ():
        shapes += [lambda _, z=z: z, lambda best, z=z: 0.5 * (best + z)]  # type: ignore[misc]
    shapes += [lambda best, ramp=ramp: best + ramp * depth for ramp in _RAMPS]  # type: ignore[misc]
    if found:
        shapes += [lambda best, share=share: share * best for share in (0.5, 1.5)]  # type: ignore[misc]
    best = [_nearest(found, budget).scores[-1] if found else flat for budget in space.budgets]
    rows = [space.project(z[None], budget) for z, budget in zip(best, space.budgets, strict=True)]
    for turn in range(min(_TURNS, len(shapes))):
        # Strides of a third of the list: three turns never bring one budget the same shape twice.
        place = turn * len(shapes) // _TURNS
        for index, (z, budget) in enumerate(zip(best, space.budgets, strict=True)):
            rows.append(space.project(shapes[(index + place) % len(shapes)](z)[None], budget))
    return torch.cat(rows)


def _nearest(found: Sequence[Allocation], budget: float) -> Allocation:
    return min(found, key=lambda part: abs(part.budget - budget))
