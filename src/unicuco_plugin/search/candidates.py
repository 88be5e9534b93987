"""Candidates of an exploration: which of them are new, how many it measures at most, and what their quality is."""

from torch import Tensor

from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.spaces.space import Space

__all__ = ["distinct", "most_measurements", "quality_of"]


def distinct(space: Space, X: Tensor, known: set[str]) -> Tensor:
    """The rows of ``X``, ``n x d``, that are strategies of their own and not known by their keys, in order."""
    seen = set(known)
    keep = []
    for index, row in enumerate(X):
        key = space.key(row)
        if key not in seen:
            seen.add(key)
            keep.append(index)
    return X[keep]


def most_measurements(space: Space, settings: Settings) -> int:
    """The most strategies that an exploration measures."""
    verifying = 0 if space.smooth else settings.verify * len(space.budgets)
    return settings.initial + settings.epochs * settings.picks + verifying


def quality_of(posterior: Posterior, target: Tensor, settings: Settings) -> Tensor:
    """Turn the surrogate's target into the quality objective: nats per token, or their logarithm."""
    if settings.quality == "log":
        return target if posterior.target == "log" else posterior.divergence(target).log()
    return posterior.divergence(target)
