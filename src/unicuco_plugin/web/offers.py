"""What a profile can be asked, and from where to where."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unicuco_plugin.answering import Profile
from unicuco_plugin.request import KINDS, LIMITS
from unicuco_plugin.strategy import Strategy

__all__ = ["Offer", "find_offers"]


@dataclass(frozen=True)
class Offer:
    """One field of a request, and the values between which a profile's answers differ.

    Attributes:
        low: The least that it can be asked.
        high: From where on, or up to where, more changes nothing.
        whole: Whether values are whole numbers.
        text: What it means.
    """

    low: float
    high: float
    whole: bool
    text: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def find_offers(profile: Profile, front: Sequence[Strategy]) -> Mapping[str, Offer]:
    """The fields that a profile answers, in the order of a request's.

    Args:
        profile: Says which costs it knows.
        front: Its best strategies.
    """
    offers = {}
    for kind in KINDS:
        values = [value for value in _values(kind, profile, front) if value is not None]
        if values:
            limit = LIMITS.get(kind)
            whole, text = (limit.number is int, limit.text) if limit else (False, _TEXTS.get(kind, kind))
            offers[kind] = Offer(min(values), max(values), whole, text)
    return offers


_TEXTS = {
    "sparsity": "At least this share of the prunable weights removed.",
    "max_divergence": "The smallest model within this divergence, in nats per token.",
    "preference": "How much size counts, against quality.",
}


def _values(kind: str, profile: Profile, front: Sequence[Strategy]) -> Sequence[float | None]:
    """What the strategies of a front have of a field; nothing where the profile cannot be asked for it."""
    stored = bool(profile.record.sizes.choices)
    if kind == "preference":
        return (0.0, 1.0)
    if kind == "max_divergence":
        return [strategy.divergence.interval90[1] for strategy in front if strategy.divergence]
    if kind == "sparsity":
        return [] if stored else [strategy.sparsity for strategy in front]
    cost = LIMITS[kind].cost if kind in LIMITS else ""
    if cost not in profile.costs.names or not (profile.search_space.physical or profile.costs.share(cost, 1.0)):
        return []
    return [getattr(strategy, cost, None) for strategy in front]
