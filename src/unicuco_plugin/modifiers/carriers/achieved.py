"""What a sparsity strategy planned for every linear, and what became of it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Achieved", "LinearSparsity"]

SCHEMA = 1


@dataclass(frozen=True)
class LinearSparsity:
    """One linear of the plan, in weights.

    Attributes:
        name: Its full name in the dense model.
        exported_as: Its full name in the exported one, where dropped blocks shift the numbers.
        weights: All its weights.
        planned: Zeros that the strategy asks for.
        achieved: Zeros that it had right after the pass that made them.
        exported: Zeros that it has at the end of the recipe; a later modifier may have filled some.
    """

    name: str
    exported_as: str
    weights: int
    planned: int
    achieved: int
    exported: int

    @property
    def error(self) -> float:
        """Achieved minus planned, as a share of its weights."""
        return (self.achieved - self.planned) / self.weights


@dataclass(frozen=True)
class Achieved:
    """What became of a plan.

    Attributes:
        engine: What zeroed the weights, such as ``"SparseGPTModifier"``.
        weights: All prunable weights of the exported model, those of linears without a plan included.
        blocks: Weights of all parameters of its blocks: norms, routers and the like included.
        linears: Every planned linear of the exported model, in its order; at least one.
        levels: Identity of the level database that weights were stitched from; None after a pass.
    """

    engine: str
    weights: int
    linears: tuple[LinearSparsity, ...]
    blocks: int
    levels: str | None = None

    @property
    def worst(self) -> LinearSparsity:
        """The linear furthest from its plan."""
        return max(self.linears, key=lambda linear: abs(linear.error))

    @property
    def coverage(self) -> float:
        """Share of the weights of the blocks that the planned linears have."""
        return sum(linear.weights for linear in self.linears) / self.blocks

    def total(self, field: str) -> int:
        """Sum of ``planned``, ``achieved`` or ``exported`` over the linears."""
        return sum(getattr(linear, field) for linear in self.linears)

    def describe(self) -> str:
        """One line: planned, achieved, the worst linear, and how much of the blocks is in the linears."""
        planned, achieved, worst = self.total("planned"), self.total("achieved"), self.worst
        return (
            f"{self.engine} on {len(self.linears)} linears: planned {planned:,} of {self.weights:,} weights "
            f"({planned / self.weights:.6f}), achieved {achieved:,} ({achieved / self.weights:.6f}); worst linear "
            f"{worst.name}: planned {worst.planned / worst.weights:.6f}, "
            f"achieved {worst.achieved / worst.weights:.6f}; "
            f"these linears have {self.coverage:.1%} of the weights of the blocks"
        )

    def to_dict(self) -> dict[str, Any]:
        """The object in ``sparsity.json``."""
        sums = {field: self.total(field) for field in ("planned", "achieved", "exported")}
        linears = [asdict(linear) for linear in self.linears]
        head = {"schema": SCHEMA, "engine": self.engine}
        if self.levels is not None:
            head["levels"] = self.levels
        return {**head, "weights": self.weights, "block_weights": self.blocks, **sums, "linears": linears}

    def write(self, path: Path) -> None:
        """Write ``sparsity.json``, one line a linear."""
        data = self.to_dict()
        rows = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in data.pop("linears"))
        head = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in data.items())
        path.write_text(f'{{\n{head}  "linears": [\n{rows}\n  ]\n}}\n', encoding="utf8")
