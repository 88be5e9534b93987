"""What a profile can be asked, and from where to where."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unicuco_plugin.answering import Profile
from unicuco_plugin.errors import round_down, round_up
from unicuco_plugin.quantities import Load
from unicuco_plugin.request import KINDS, LIMITS
from unicuco_plugin.strategy import Strategy

__all__ = ["Offer", "find_offer_under", "find_offers"]

_DIGITS = 6  # of an end that is no whole number
_ABOVE = 1.001  # times what a field must exceed: the least that is offered of it


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

    def at(self, place: float, *, inverse: bool = False) -> float:
        """The value at a place of a slider, from 0 to 1; never outside of both ends.

        Args:
            place: Where.
            inverse: Whether steps are even in its reciprocal: of a speed, in time.
        """
        low, high = (1.0 / self.low, 1.0 / self.high) if inverse else (self.low, self.high)
        value = low + (high - low) * place
        value = 1.0 / value if inverse else value
        return round(value) if self.whole else min(self.high, max(self.low, float(f"{value:.{_DIGITS}g}")))

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


def find_offer_under(profile: Profile, kind: str, load: Load) -> Offer | None:
    """The values between which answers to a limit on memory or time differ, each of which has one.

    Where units are priced by that cost, its race is run at both ends, which takes some tenths of a second.

    Args:
        profile: Is asked for both ends.
        kind: A field that needs a load.
        load: What memory and time are counted under.

    Returns:
        None where there are no two such values.

    Raises:
        RequestError: If the profile cannot be asked.
    """
    limit = LIMITS[kind]
    ends = profile.ends(limit.cost, load)
    low, high = (1.0 / cost for cost in reversed(ends)) if limit.inverse else ends
    if limit.inverse:  # at least: what is lower is met, too
        low, high = float(round_down(low, _DIGITS)), float(round_down(high, _DIGITS))
    elif limit.number is float:
        low, high = float(round_up(low, _DIGITS)), float(round_up(high, _DIGITS))
    low = max(low, limit.above * _ABOVE)
    return Offer(low, high, limit.number is int, _TEXTS[kind]) if low < high else None


_TEXTS = {
    "sparsity": "At least this share of the prunable weights removed.",
    "max_memory": "At most this many bytes in a server: weights, cache and buffers.",
    "max_latency": "At most so many milliseconds for one more token of every sequence.",
    "min_speedup": "At least so many times the dense model's tokens a second.",
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
