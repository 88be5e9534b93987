"""What strategies need beyond a number for each unit: named tensors that travel as one, from training to an export."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from unicuco_plugin.errors import StrategyError, quoted

__all__ = ["Payload"]

_DIGITS = 16  # of SHA-256: more than tell all payloads apart that anybody will ever make


@dataclass(frozen=True)
class Payload:
    """Tensors that somebody made and somebody else reads; who carries them need not know what they mean.

    Attributes:
        name: Which reader they are for, such as ``parts``: what a space's traits ask for, and the stem of a profile's
            file.
        tensors: By name.
        tokens: Evaluation tokens that making them took; 0 for what was read back.
    """

    name: str
    tensors: Mapping[str, Tensor]
    tokens: int = field(default=0, compare=False)

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of SHA-256 over names, dtypes, shapes and bytes of the tensors."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            kept = tensor.detach().cpu().contiguous()
            digest.update(f"{name}:{kept.dtype}:{tuple(kept.shape)}\n".encode())
            digest.update(kept.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:_DIGITS]

    def check(self, name: str, digest: str | None = None) -> None:
        """Refuse another payload than the one that is needed.

        Args:
            name: What it has to be.
            digest: Its content's, where that is known.

        Raises:
            StrategyError: If it is another.
        """
        if self.name != name:
            raise StrategyError(f"payload must be {quoted(name)}, got {quoted(self.name)}")
        if digest is not None and self.digest != digest:
            raise StrategyError(
                f"payload {quoted(name)} must have the digest {quoted(digest)}, got {self.digest}: it was edited, or "
                "is another run's; take the one that belongs to the strategy"
            )
