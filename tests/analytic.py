"""A quality objective without a language model: ten blocks that matter singly and in pairs, every set known."""

import math

import torch
from torch import Tensor

from unicuco_plugin.journal.journal import Measurement
from unicuco_plugin.objectives.objective import Evaluation
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.spaces.depth import DepthSpace

__all__ = ["SETTINGS", "SPACE", "AnalyticMeasure", "AnalyticObjective", "optimum", "value_of"]

SPACE = DepthSpace(tuple(f"b.{i}" for i in range(10)), (5,) * 10)
SETTINGS = Settings(initial=30, epochs=6, picks=8, steps=40, pool=200, starts=4, rerank=2, focus=1.0, batch=4)

_generator = torch.Generator().manual_seed(11)
_ALONE = 0.2 + 0.6 * torch.rand(10, generator=_generator, dtype=torch.float64)
_PAIRS = torch.randn(10, 10, generator=_generator, dtype=torch.float64).triu(1) * 0.12


def value_of(x: Tensor, shift: float = 0.0) -> float:
    """Nats per token of one strategy: smooth, positive, growing, with pairs that help or hurt each other."""
    return math.exp((x @ _ALONE + x @ _PAIRS @ x).item() - 1.0 + shift)


def optimum(count: int) -> tuple[str, float]:
    """The best set of a size by brute force."""
    subsets = (torch.tensor([(n >> i) & 1 for i in range(10)], dtype=torch.float64) for n in range(1024))
    values = {SPACE.key(x): value_of(x) for x in subsets if x.sum() == count}
    best = min(values, key=values.__getitem__)
    return best, values[best]


class AnalyticObjective:
    """Evaluates ``value_of`` on four windows that disagree a little; counts what it is asked."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift
        self.batches: list[list[str]] = []

    def evaluate(self, X: Tensor) -> list[Evaluation]:
        """Measure each row; no two batches share work, so batches change nothing."""
        self.batches.append([SPACE.key(row) for row in X])
        values = [value_of(row, self.shift) for row in X]
        windows = [tuple(value * factor for factor in (0.9, 1.0, 1.05, 1.05)) for value in values]
        return [Evaluation(v, w, 64, 0.0) for v, w in zip(values, windows, strict=True)]


class AnalyticMeasure:
    """Measures without a journal; can be interrupted before its n-th strategy."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.objectives = {name: AnalyticObjective(0.02 * i) for i, name in enumerate(("rank", "rerank", "confirm"))}
        self.interrupt_at = interrupt_at
        self.count = 0

    def __call__(self, fidelity, X, report):
        """See ``Measure``."""
        rows = []
        for row in X:
            if self.count == self.interrupt_at:
                raise KeyboardInterrupt
            self.count += 1
            [e] = self.objectives[fidelity].evaluate(row[None])
            rows.append(Measurement(SPACE.key(row), fidelity, e.value, e.per_window, e.tokens, e.seconds))
            report(len(rows))
        return rows
