"""Decoded levels of one database, cached for all that read it."""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, device

__all__ = ["DecodedLevels"]


class DecodedLevels:
    """Weights by linear, level and device; the least recently used go first.

    Every evaluator of a training run stitches from the same few levels, so they share one lot. What is returned must
    not be written to.
    """

    def __init__(self) -> None:
        self._weights: OrderedDict[tuple[str, int | str, device], Tensor] = OrderedDict()
        self.bytes = 0
        self._most: int | None = None

    def get(self, name: str, level: int | str, where: device, decode: Callable[[], Tensor], limit: int) -> Tensor:
        """Return a weight, decoded if it is not there.

        Args:
            name: Of the linear.
            level: From 1 on, or a scheme's name.
            where: The device it is on.
            decode: Reads it from the disk.
            limit: Most bytes to hold once it is kept; a weight of more is not kept.
        """
        key = name, level, where
        if key in self._weights:
            self._weights.move_to_end(key)
            return self._weights[key]
        weight = decode()
        limit = limit if self._most is None else min(limit, self._most)
        if weight.nbytes <= limit:
            self._weights[key] = weight
            self.bytes += weight.nbytes
            while self.bytes > limit:
                _, oldest = self._weights.popitem(last=False)
                self.bytes -= oldest.nbytes
        return weight

    def shed(self) -> None:
        """Let go of all weights, and hold half as many from now on: memory has no room for them."""
        if self.bytes:
            self._most = self.bytes // 2
        self._weights.clear()
        self.bytes = 0
