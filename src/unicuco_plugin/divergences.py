"""What a profile says of the divergence of its strategies: measured where they were confirmed, else predicted."""

import math
from functools import cached_property

import torch
from torch import Tensor

from unicuco_plugin.objectives.floor import floored
from unicuco_plugin.policy.contest import Candidate, Contest
from unicuco_plugin.policy.posterior import Z90
from unicuco_plugin.policy.shift import Shift
from unicuco_plugin.profile_record import ProfileRecord
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.strategy import Divergence

__all__ = ["Divergences"]

# Logarithm of the largest divergence that is told: a file may claim more than a float can hold.
_LARGEST = 700.0


class Divergences:
    """Divergences of one profile's strategies, nats per token on the windows that confirm.

    Args:
        record: What the profile says of itself.
        space: Of its strategies.
        contest: Predicts them on the ranking windows.
    """

    def __init__(self, record: ProfileRecord, space: Space, contest: Contest) -> None:
        self._record, self._space, self._contest = record, space, contest
        self._confirmed = {entry.strategy: entry.confirmed for entry in record.archive if entry.confirmed is not None}

    def of(self, candidate: Candidate) -> Divergence:
        """What is known of one candidate."""
        known = self._confirmed.get(candidate.key)
        if known is not None:
            return Divergence(mean=known.mean, interval90=known.interval90, measured=True)
        return self.shifted(candidate.x, candidate.mean, candidate.std)

    def upper(self, candidate: Candidate) -> float:
        """The upper end of its interval."""
        return self.of(candidate).interval90[1]

    def shifted(self, x: Tensor, mean: float, std: float) -> Divergence:
        """From the ranking windows' logarithm to the confirming windows' nats per token.

        Args:
            x: The strategy, ``d`` shares.
            mean: Of the logarithm of its divergence on the ranking windows.
            std: Standard deviation of that.
        """
        shift, shift_std = self._record.shift, self._record.shift_std
        if self.shift is not None:
            shift, shift_std = self.shift.at(self._space.sparsity(x[None]).item())
        centre = mean + shift
        half = Z90 * math.hypot(std, shift_std)
        low, mean, high = (math.exp(min(value, _LARGEST)) for value in (centre - half, centre, centre + half))
        return Divergence(mean=mean, interval90=(low, high), measured=False)

    @cached_property
    def shift(self) -> Shift | None:
        """What the strategies that were confirmed say of the others; None where too few were."""
        if not self._confirmed:
            return None
        rows = torch.stack([self._space.parse(key) for key in self._confirmed])
        ranked = self._contest.predict(rows, "archive", list(self._confirmed))
        differences = [
            math.log(floored(found.mean)) - by.mean for found, by in zip(self._confirmed.values(), ranked, strict=True)
        ]
        return Shift.of(self._space.sparsity(rows).tolist(), differences)
