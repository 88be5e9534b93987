"""Everything that controls a healing, with its ranges."""

from pydantic import Field

from unicuco_plugin.frozen import Frozen

__all__ = ["HealingSettings"]


class HealingSettings(Frozen):
    """How much is learned, and how; docs/healing.md says how the defaults were found."""

    tokens: int = Field(500_000, ge=2, description="tokens to train on, each seen once")
    seq_length: int = Field(512, ge=2, description="tokens in a window")
    batch: int = Field(4, ge=1, description="windows in a step")
    rank: int = Field(32, ge=1, description="rank of the adapters")
    learning_rate: float = Field(1e-3, gt=0, description="AdamW's largest learning rate")
    top_k: int = Field(64, ge=1, description="tokens of the dense model's distribution kept for each position")
    evaluations: int = Field(10, ge=1, description="times that the divergence is measured on held-out windows")
    choosing: int = Field(8, ge=1, description="held-out windows that choose the step")
    confirming: int = Field(16, ge=1, description="further windows that say what came of it")
    seed: int = Field(0, ge=0, description="seed of everything that is random")

    @property
    def steps(self) -> int:
        """Steps of the optimiser, the last one smaller where windows are left over."""
        return -(-self.windows // self.batch)

    @property
    def windows(self) -> int:
        """Windows to train on."""
        return max(1, self.tokens // self.seq_length)
