"""What a model can be given: how long windows may be, and which tokens it has rows for.

Learned positions end where their table ends, and token ids where the embedding ends; beyond, an IndexError waits in the
middle of a pass. Rotary positions go on, so a model's ``max_position_embeddings`` alone refuses nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.models.families.known import family_of
from unicuco_plugin.models.loading import load_config

__all__ = ["Reach", "load_reach"]

# Rows that a table of positions may have beyond the configuration's: OPT's and BioGPT's first two are no positions.
_OFFSET = 8


@dataclass(frozen=True)
class Reach:
    """What a model can be given.

    Attributes:
        positions: Most tokens of a window; None where positions do not end.
        rows: Rows of the embedding; None where nobody knows yet.
    """

    positions: int | None = None
    rows: int | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self:
        """Read it off a model, on whatever device it is, the meta device included."""
        tokens = model.get_input_embeddings()
        rows = getattr(tokens, "num_embeddings", None)
        return cls(_positions(model, tokens), rows if isinstance(rows, int) else None)

    def check_length(self, length: int) -> None:
        """Refuse windows that are too long.

        Raises:
            CalibrationError: If they are; the message says how long they may be.
        """
        if self.positions is not None and length > self.positions:
            raise CalibrationError(
                f"windows of {length} tokens are longer than the {self.positions} positions that the model has "
                f"learned; pass --seq-length {self.positions} or less"
            )

    def check_tokens(self, windows: Tensor, known: int | None = None) -> None:
        """Refuse tokens that have no row.

        Args:
            windows: Token ids of any shape.
            known: Tokens of the tokenizer, for the message.

        Raises:
            CalibrationError: If there is one.
        """
        largest = int(windows.max()) if windows.numel() else -1
        if self.rows is not None and largest >= self.rows:
            tokenizer = "the tokenizer" if known is None else f"the tokenizer knows {known} tokens and"
            raise CalibrationError(
                f"{tokenizer} writes token {largest}, but the model's embedding has {self.rows} rows; use the "
                f"model's own tokenizer, or save the model with {known or largest + 1} rows "
                "(model.resize_token_embeddings)"
            )

    def check(self, windows: Tensor) -> None:
        """Refuse ``m x L`` token ids that are too long or have no row.

        Raises:
            CalibrationError: See :meth:`check_length` and :meth:`check_tokens`.
        """
        self.check_length(windows.shape[-1])
        self.check_tokens(windows)


def load_reach(name_or_path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Reach:
    """Read it off a model's configuration, before a weight is read: the model is built without memory.

    Raises:
        UnsupportedModelError: See :func:`load_config`.
    """
    config = load_config(name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception:  # a model's own code may raise anything; whoever loads it says so
        return Reach()
    return Reach.of(model)


def _positions(model: PreTrainedModel, tokens: nn.Module) -> int | None:
    config: PreTrainedConfig = model.config.get_text_config(decoder=True)
    fixed = getattr(config, family_of(config).positions, None)
    if isinstance(fixed, int):
        return fixed
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int):
        return None
    for name, module in model.named_modules():
        if any(part.isdigit() for part in name.split(".")):  # within blocks: distances, not positions
            continue
        if (
            isinstance(module, nn.Embedding)
            and module is not tokens
            and most <= module.num_embeddings <= most + _OFFSET
        ):
            return most
    return None
