"""What to measure last: at every budget the strategy that can be expected to improve most on the best that is known."""

import torch
from torch import Tensor
from torch.distributions import Normal

from unicuco_plugin.search.contest import Contest, safest
from unicuco_plugin.spaces.space import Space

__all__ = ["expected_improvement", "most_promising"]

# Less than so much log divergence is not worth an evaluation.
_WORTH = 0.005


def expected_improvement(mean: Tensor, std: Tensor, best: float) -> Tensor:
    """``E max(best - y, 0)`` of normal predictions ``y``, lower being better.

    Args:
        mean: ``p`` means.
        std: ``p`` standard deviations, positive.
        best: What is to be improved on.

    Source:
        Jones et al. 1998, "Efficient Global Optimization of Expensive Black-Box Functions", Eq. (15).
    """
    normal = Normal(torch.zeros((), dtype=mean.dtype), torch.ones((), dtype=mean.dtype))
    z = (best - mean) / std
    return (best - mean) * normal.cdf(z) + std * normal.log_prob(z).exp()


def most_promising(contest: Contest, space: Space, budgets: list[float], known: set[str]) -> Tensor:
    """For each budget, the unmeasured strategy of the greatest expected improvement.

    They are those of the race, and all that are one move away from its best.

    Args:
        contest: The races.
        space: Of the strategies; not a smooth one.
        budgets: That it lists.
        known: Keys of what was measured.

    Returns:
        ``count x d``, at most one a budget; none where the improvement is not worth an evaluation.
    """
    chosen: dict[str, Tensor] = {}
    for race in contest.candidates(budgets):
        best = safest(race)
        around = contest.predict(space.neighbours(best.x[None])[0], "neighbour")
        measured = [candidate.mean for candidate in race if candidate.key in known]
        fresh = [candidate for candidate in (*race, *around) if candidate.key not in known | chosen.keys()]
        if not fresh:
            continue
        mean = torch.tensor([candidate.mean for candidate in fresh], dtype=torch.float64)
        std = torch.tensor([candidate.std for candidate in fresh], dtype=torch.float64)
        gain = expected_improvement(mean, std, min(measured, default=best.cautious))
        index = int(gain.argmax())
        if gain[index] > _WORTH:
            chosen[fresh[index].key] = fresh[index].x
    return torch.stack(list(chosen.values())) if chosen else torch.empty(0, len(space.units), dtype=torch.float64)
