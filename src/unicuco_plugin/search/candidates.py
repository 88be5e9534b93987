"""Candidates of an exploration: which of them are new, how many it measures at most, and what their quality is."""

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor, cat, stack

from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.spaces.space import Space

__all__ = ["believe", "canonical", "distinct", "most_measurements", "of_account", "quality_of"]


def believe(posterior: Posterior, pending: Iterable[Tensor]) -> Posterior:
    """As if strategies, ``p x d``, had been measured and found as predicted: the mean stays, doubt around them goes.

    Source:
        The kriging believer: Ginsbourger, Le Riche and Carraro 2010, "Kriging is well-suited to parallelize
        optimization".
    """
    found = list(pending)
    if not found:
        return posterior
    x = cat(found).to(posterior.X)
    t = (posterior.mean(x) - posterior.shift) / posterior.scale
    return replace(posterior, X=cat([posterior.X, x]), t=cat([posterior.t, t]))


def canonical(space: Space, X: Tensor) -> Tensor:
    """Strategies as a journal names them: a smooth space rounds, and what is learned from is what was measured."""
    return stack([space.parse(space.key(row)) for row in X])


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


def of_account(F: Tensor, settings: Settings) -> Tensor:
    """Objectives, ``n x 2``, with what is negligible added to divergences: their logarithms hardly fall below."""
    if settings.quality == "raw" or settings.negligible == 0.0:
        return F
    return stack([F[:, 0], F[:, 1].logaddexp(F.new_tensor(settings.negligible).log())], -1)
