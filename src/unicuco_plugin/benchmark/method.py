"""One method of a benchmark and the text it works on, as the YAML says them."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator

from unicuco_plugin.answering import load_profile
from unicuco_plugin.errors import quoted
from unicuco_plugin.frozen import Frozen
from unicuco_plugin.peers.peer import Setting
from unicuco_plugin.plugins.manager import make_peer
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.training.correcting import check_compensation

__all__ = ["Method", "Text", "check_values", "read_bits"]


class Text(Frozen):
    """Windows cut from text.

    Attributes:
        sources: Text, JSONL, or datasets.
        windows: How many.
        seq_length: Tokens in each.
        seed: Where they lie.
    """

    sources: tuple[str, ...] = Field(min_length=1)
    windows: int = Field(ge=1)
    seq_length: int = Field(ge=2)
    seed: int = 0


def read_bits(data: object) -> object:
    """Turn a field ``bits``, mean bits of a weight with its scales, into budgets, shares of 16 bits.

    Raises:
        ValueError: If both are given, or bits are no list of numbers.
    """
    if not isinstance(data, dict) or "bits" not in data:
        return data
    data = dict(data)
    bits = data.pop("bits")
    if "budgets" in data:
        raise ValueError("give bits or budgets, got both")
    if not isinstance(bits, list | tuple) or not all(isinstance(value, int | float) for value in bits):
        raise ValueError(f"bits must be a list of numbers, got {quoted(bits)}")
    return data | {"budgets": [1.0 - value / DENSE_BITS for value in bits]}


class Method(Frozen):
    """One way to answer requests: a profile that is trained or there already, or a peer.

    Attributes:
        train: Training settings, on top of the benchmark's own ``train``.
        profile: Folder or name of a profile.
        peer: Name of a peer.
        setting, token_budget: For peers that take them.
        windows: So many calibration windows instead: the first, for peers that read all of them for every candidate, or
            more of the same text, for peers that draw from them.
        budgets, seeds: Instead of all, for methods that are too slow for that; ``bits`` in place of budgets.
        compensation: What its answers are measured with, corrections being solved from the benchmark's calibration
            windows; where it is trained, it searches with it. None leaves answers as they are, or as a profile was
            trained.
        extrapolate: Whether its token budget only serves to time it: seconds are then scaled to the whole search.
    """

    train: dict[str, Any] | None = None
    profile: str | None = None
    peer: str | None = None
    setting: Setting | None = None
    token_budget: int | None = Field(default=None, gt=0)
    windows: int | None = Field(default=None, ge=1)
    budgets: tuple[float, ...] | None = Field(default=None, min_length=1)
    seeds: tuple[int, ...] | None = Field(default=None, min_length=1)
    compensation: str | None = None
    extrapolate: bool = False

    _read_bits = model_validator(mode="before")(read_bits)

    def check(self, space: str) -> None:
        """Hold the fields against each other and against what the peer takes.

        Raises:
            UnknownNameError: If no plugin provides the peer.
            ProfileError: If the profile cannot be read.
            StrategyError: If there is a compensation, and blocks of the space do not go whole.
            ValueError: If the fields do not go together, or the peer does not answer for the space.
        """
        given = [name for name in ("train", "profile", "peer") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of train, profile, peer; got {', '.join(given) or 'none'}")
        for name in ("setting", "token_budget"):
            if getattr(self, name) is not None and (self.peer is None or name not in make_peer(self.peer).takes):
                raise ValueError(f"{name} goes with peers that take it, got {name}: {getattr(self, name)}")
        if self.windows is not None and (self.peer is None or "windows" not in make_peer(self.peer).takes):
            raise ValueError(f"windows goes with peers that read text, got windows: {self.windows}")
        check_compensation(self.compensation, space)
        if self.extrapolate and self.token_budget is None:
            raise ValueError("extrapolate needs a token_budget that cuts the search short, got none")
        if self.profile is not None:
            load_profile(self.profile)
        if self.peer is not None and space not in make_peer(self.peer).spaces:
            raise ValueError(f"{self.peer} answers for {', '.join(make_peer(self.peer).spaces)}, not for {space}")
        check_values(self.budgets or (), self.seeds or ())

    @property
    def random(self) -> bool:
        """Whether its answers depend on the seed."""
        return self.train is not None or (self.peer is not None and "seed" in make_peer(self.peer).takes)


def check_values(budgets: Sequence[float], seeds: Sequence[int]) -> None:
    """Refuse budgets and seeds out of range.

    Raises:
        ValueError: If a budget is not in (0, 1), or one stands there twice.
    """
    for budget in budgets:
        if not 0.0 < budget < 1.0:
            raise ValueError(f"budgets must be in (0, 1), got {budget}")
    for name, values in (("budgets", budgets), ("seeds", seeds)):
        if len(set(values)) < len(values):
            raise ValueError(f"{name} must be different from each other, got {list(values)}")
