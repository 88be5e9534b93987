"""Everything that controls a training run, with its ranges, and the named presets."""

from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator

from unicuco_plugin.frozen import Frozen
from unicuco_plugin.policy.posterior import Bound, Target

__all__ = ["PRESETS", "Settings"]


# Settings that came later → the value that a journal without them stands for.
_LATER = {"negligible": 0.0, "lag": 0}


class Settings(Frozen):
    """Parameters of Algorithm 1, of the steps around it, and of how candidates are measured.

    The defaults are our own preset, as cheap as measurements allow (docs/training.md).
    """

    seed: int = Field(0, ge=0, description="seed of everything that is random")
    tokens: int = Field(2048, ge=2, description="tokens per full-fidelity (confirming) evaluation")
    seq_length: int = Field(512, ge=2, description="tokens per confirming window")
    rank_tokens: int = Field(1024, ge=2, description="tokens per ranking evaluation")
    rank_seq_length: int = Field(256, ge=2, description="tokens per ranking window")
    rerank: int = Field(3, ge=0, description="best candidates per budget to measure again on other ranking windows")
    focus: float = Field(0.75, gt=0, le=1, description="largest sparsity that the loop spends evaluations on")
    initial: int = Field(60, ge=2, description="strategies measured before the first surrogate, N0")
    verify: int = Field(2, ge=0, description="final rounds that measure each budget's best if it is only predicted")
    epochs: int = Field(12, ge=0, description="rounds of Algorithm 1, T; fewer if nothing promises an improvement")
    steps: int = Field(150, ge=0, description="StratNet gradient steps per epoch, I")
    imitation: int = Field(400, ge=0, description="final StratNet gradient steps towards the best known of each budget")
    learning_rate: float = Field(1e-3, gt=0, description="StratNet's Adam learning rate")
    preferences: int = Field(10, ge=1, description="preferences per gradient step, K")
    pool: int = Field(2240, ge=1, description="StratNet proposals per epoch, C")
    picks: int = Field(12, ge=1, description="strategies measured per epoch, by hypervolume improvement")
    lag: int = Field(
        0, ge=0, description="rounds that may still be measured when the next is picked, so that no worker waits"
    )
    bound: Bound = Field("lower", description="which confidence bound of the surrogate the search minimises")
    kappa: float = Field(0.5, ge=0, description="width of that bound in standard deviations")
    target: Target | Literal["auto"] = Field("auto", description="what the surrogate models; auto cross-validates")
    quality: Literal["log", "raw"] = Field("log", description="scale of quality in scalarization and hypervolume")
    negligible: float = Field(
        0.0, ge=0, description="nats per token that nobody minds: picks gain little by a divergence that falls below"
    )
    scalarization: str = Field("tchebycheff", description="how a preference weighs size and quality")
    neighbours: bool = Field(True, description="let descents on the posterior add to StratNet's pool")
    starts: int = Field(16, ge=0, description="random starts of those descents per budget")
    direction: Literal["forward", "reverse"] = Field("forward", description="KL(dense‖pruned) or KL(pruned‖dense)")
    batch: int = Field(12, ge=1, description="candidates measured together, in one journal transaction")
    batch_windows: int = Field(16, ge=1, description="windows run through a block together")

    @model_validator(mode="after")
    def _check_windows(self) -> Self:
        for tokens, length in (("tokens", "seq_length"), ("rank_tokens", "rank_seq_length")):
            if getattr(self, tokens) % getattr(self, length):
                raise ValueError(
                    f"{tokens} must be a multiple of {length} = {getattr(self, length)}, got {getattr(self, tokens)}"
                )
        return self

    @property
    def header(self) -> dict[str, Any]:
        """What a journal is known by; one that was begun before a setting came resumes without it."""
        known = self.model_dump(mode="json")
        return {name: value for name, value in known.items() if name not in _LATER or value != _LATER[name]}

    def generator(self, *stream: int) -> Generator:
        """An independent random stream per use, so that a resumed run draws what an uninterrupted one draws."""
        seed = self.seed
        for part in stream:
            seed = (seed * 1_000_003 + part + 7) % (2**63 - 1)
        return torch.Generator().manual_seed(seed)


PRESETS: dict[str, Settings] = {
    "default": Settings(),
    # Ranks on twice as many tokens, in windows as long as those that confirm: short windows forgive other blocks.
    "thorough": Settings(rank_tokens=2048, rank_seq_length=512),
    # The paper's T, I, C, learning rate, picks and tokens; one fidelity's worth of windows for ranking as for
    # confirming, StratNet alone in the pool, the objective as printed. N0, K and kappa are not given there.
    "paper": Settings(
        tokens=524288,
        seq_length=8192,
        rank_tokens=524288,
        rank_seq_length=8192,
        rerank=0,
        verify=0,
        focus=1.0,
        initial=500,
        epochs=50,
        steps=1000,
        imitation=0,
        learning_rate=1e-3,
        preferences=10,
        pool=2240,
        picks=10,
        bound="lower",
        kappa=0.5,
        target="raw",
        quality="raw",
        neighbours=False,
        starts=0,
        batch_windows=1,
    ),
}
