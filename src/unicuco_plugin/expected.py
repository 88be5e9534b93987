"""What is known of a strategy's divergence: measured where it was confirmed, else predicted with an interval."""

import math
from functools import cached_property

import torch
from torch import Tensor

from unicuco_plugin.errors import quoted
from unicuco_plugin.objectives.floor import floored
from unicuco_plugin.policy.contest import Candidate, Contest
from unicuco_plugin.policy.posterior import Z90
from unicuco_plugin.policy.shift import Shift
from unicuco_plugin.profile_record import ProfileRecord
from unicuco_plugin.spaces.space import Named, Space
from unicuco_plugin.strategy import Divergence

__all__ = ["Expected", "check_key"]

# Logarithm of the largest divergence that is told: a file may claim more than a float can hold.
_LARGEST = 700.0


class Expected:
    """Tells divergences of a profile's candidates, nats per token on the confirming windows.

    Args:
        record: What the profile says of itself.
        space: Of its strategies.
        contest: Predicts what is not in the archive.
    """

    def __init__(self, record: ProfileRecord, space: Space, contest: Contest) -> None:
        self._record, self._space, self._contest = record, space, contest
        self._confirmed = {entry.strategy: entry.confirmed for entry in record.archive if entry.confirmed is not None}

    def of(self, candidate: Candidate) -> Divergence:
        """The divergence of a candidate of the contest."""
        found = self._confirmed.get(candidate.key)
        if found is not None:
            return Divergence(mean=found.mean, interval90=found.interval90, measured=True)
        return self.shifted(candidate.x, candidate.mean, candidate.std)

    def upper(self, candidate: Candidate) -> float:
        """The upper end of its interval."""
        return self.of(candidate).interval90[1]

    @cached_property
    def shift(self) -> Shift | None:
        """What the strategies that were confirmed say of the others; None where too few were."""
        if not self._confirmed:
            return None
        rows = torch.stack([self._space.parse(key) for key in self._confirmed])
        ranked = self._contest.predict(rows, "archive", list(self._confirmed))
        pairs = zip(self._confirmed.values(), ranked, strict=True)
        differences = [math.log(floored(found.mean)) - by.mean for found, by in pairs]
        return Shift.of(self._space.sparsity(rows).tolist(), differences)

    def shifted(self, x: Tensor, mean: float, std: float) -> Divergence:
        """From the ranking windows' logarithm to the confirming windows' nats per token.

        Args:
            x: ``d`` shares of the strategy.
            mean: Of the logarithm, as the surrogate predicts it.
            std: Its standard deviation.
        """
        shift, shift_std = self._record.shift, self._record.shift_std
        if self.shift is not None:
            shift, shift_std = self.shift.at(self._space.sparsity(x[None]).item())
        centre = mean + shift
        half = Z90 * math.hypot(std, shift_std)
        low, mean, high = (math.exp(min(value, _LARGEST)) for value in (centre - half, centre, centre + half))
        return Divergence(mean=mean, interval90=(low, high), measured=False)


def check_key(space: Named, key: str) -> None:
    """Refuse an archived strategy that the space did not write.

    Raises:
        ValueError: If it is no key of the space, or removes nothing.
    """
    try:
        x = space.parse(key)
        known = space.key(x) == key
    except (ValueError, IndexError, OverflowError, RuntimeError):
        known = False
    if not known or not bool(((x >= 0.0) & (x <= 1.0)).all()) or not x.any():
        raise ValueError(f"strategy must be a key of the space {space.name} that removes something, got {quoted(key)}")
