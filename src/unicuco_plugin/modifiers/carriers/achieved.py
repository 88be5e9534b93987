"""What a sparsity strategy planned for every linear, and what became of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from torch import nn

from unicuco_plugin.models.tensors.storage import count_parameters
from unicuco_plugin.modifiers.carriers.plan_check import count_zeros

__all__ = ["Achieved", "Keeping", "LinearSparsity"]

# Of sparsity.json; raised when an older reader would misread a newer file.
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

    @classmethod
    def of(
        cls,
        model: nn.Module,
        engine: str,
        linears: Mapping[str, nn.Linear],
        *,
        planned: Mapping[str, int],
        achieved: Mapping[str, int],
        blocks: nn.Module,
        levels: str | None = None,
    ) -> Self:
        """Count what the planned linears of a model have now.

        Args:
            model: The model at the end of the recipe.
            engine: What zeroed the weights.
            linears: Every prunable linear of the dense model by name; those that are gone do not count.
            planned: Zeros of each that the strategy asks for.
            achieved: Zeros that each planned one had right after the pass that made them.
            blocks: The dense model's blocks, as far as they are left.
            levels: Identity of the level database.
        """
        names = {id(module): name for name, module in model.named_modules()}
        left = {name: linear for name, linear in linears.items() if id(linear) in names}
        rows = tuple(
            LinearSparsity(
                name=name,
                exported_as=names[id(linear)],
                weights=linear.weight.numel(),
                planned=planned[name],
                achieved=achieved[name],
                exported=count_zeros(linear),
            )
            for name, linear in left.items()
            if name in achieved
        )
        weights = sum(linear.weight.numel() for linear in left.values())
        return cls(engine, weights, rows, count_parameters(blocks), levels)

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
        """Write ``sparsity.json``, one line per linear."""
        data = self.to_dict()
        rows = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in data.pop("linears"))
        head = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in data.items())
        path.write_text(f'{{\n{head}  "linears": [\n{rows}\n  ]\n}}\n', encoding="utf8")


class Keeping:
    """What handlers have in common that take no module out of the model."""

    achieved: Achieved | None = None

    @property
    def removed(self) -> frozenset[str]:
        """No module goes."""
        return frozenset()
