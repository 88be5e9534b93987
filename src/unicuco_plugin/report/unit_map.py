"""Heat maps of which units go: all budgets beside each other, or blocks by their parts at each of several budgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from unicuco_plugin.escaping import escape_picture
from unicuco_plugin.schemes import DENSE_BITS, parse_scheme
from unicuco_plugin.spaces.units import name_block
from unicuco_plugin.strategy import Strategy

__all__ = ["MAPS", "BlockGrid", "draw_block_maps", "draw_unit_map", "say_size"]

# Budgets that get a map of their own, as many as fit on a page; where the front is long, between these places: near its
# ends maps are nearly empty or full.
MAPS = 4
_FROM, _TO = 0.3, 0.9
# More unit names than this beside an axis run into each other; then only some are named.
_LABELS = 32
_SHADES: dict[str, Any] = {"cmap": "Blues", "vmin": 0.0, "vmax": 1.0}
# Few bits are dark, as much removed is; what is left alone is as light as eight bits.
_BITS: dict[str, Any] = {"cmap": "Blues_r", "vmin": 2.0, "vmax": 8.0}
# Where blocks may be gone, these are the darkest.
_NONE: dict[str, Any] = _BITS | {"vmin": 0.0}


@dataclass(frozen=True)
class BlockGrid:
    """Units as a table of blocks by parts.

    Attributes:
        blocks: Names of the blocks, in order.
        parts: What follows a block's name, such as ``mlp.up_proj``, in order.
    """

    blocks: tuple[str, ...]
    parts: tuple[str, ...]

    @classmethod
    def of(cls, units: Sequence[str]) -> Self | None:
        """Arrange units; None where they are blocks themselves."""
        blocks = tuple(dict.fromkeys(name_block(unit) for unit in units))
        parts = tuple(dict.fromkeys(unit.removeprefix(name_block(unit)).removeprefix(".") for unit in units))
        return cls(blocks, parts) if len(parts) > 1 else None

    def values(self, strategy: Strategy) -> list[list[float]]:
        """The share removed of each part (columns) of each block (rows), or its bits, none where the block is gone."""
        return [[_value(strategy, f"{block}.{part}") for part in self.parts] for block in self.blocks]


def _value(strategy: Strategy, unit: str) -> float:
    if not strategy.traits.stores:
        return strategy.shares.get(unit, 0.0)
    if name_block(unit) in strategy.shares:
        return 0.0
    scheme = strategy.schemes.get(unit)
    return float(DENSE_BITS if scheme is None else parse_scheme(scheme).bits)


def say_size(strategy: Strategy) -> str:
    """How much a strategy leaves, for a title."""
    return f"sparsity {strategy.sparsity:.2f}" if strategy.bits is None else f"{strategy.bits:.2f} bits"


def draw_block_maps(figure: Any, panels: Sequence[Any], front: Sequence[Strategy], grid: BlockGrid) -> None:  # noqa: ANN401 - matplotlib is untyped
    """Draw a map at each of as many budgets as there are panels.

    Args:
        figure: Gets the scale.
        panels: One axes a budget, from left to right.
        front: Strategies, the smallest removal first, at least as many.
        grid: The units.
    """
    last = len(front) - 1
    step = (_TO - _FROM) / max(len(panels) - 1, 1)
    places = [round(last * (_FROM + step * index)) for index in range(len(panels))]
    if len(set(places)) < len(places):  # a short front: its largest budgets
        places = list(range(len(front)))[-len(panels) :]
    image = None
    stores, gone = front[0].bits is not None, any(front[place].shares for place in places)
    for axes, place in zip(panels, places, strict=True):
        shades = _SHADES if not stores else _NONE if gone else _BITS
        image = axes.pcolormesh(grid.values(front[place]), edgecolors="#DDDDDD", linewidth=0.3, **shades)
        axes.set_title(say_size(front[place]), fontsize=10)
        axes.set_xticks(
            [index + 0.5 for index in range(len(grid.parts))],
            [escape_picture(part.rpartition(".")[2]) for part in grid.parts],
            rotation=90,
            fontsize=8,
        )
        rows = range(0, len(grid.blocks), -(-len(grid.blocks) // _LABELS))
        named = axes is panels[0]
        axes.set_yticks(
            [row + 0.5 for row in rows],
            [escape_picture(grid.blocks[row].rpartition(".")[2]) for row in rows] if named else [],
            fontsize=7,
        )
        axes.invert_yaxis()
    panels[0].set_ylabel(f"block, first to last ({escape_picture(grid.blocks[0].rpartition('.')[0])})")
    bits = f"bits of the unit's codes{', 0 where its block is gone' if gone else ''}"
    label = bits if stores else "share of the unit's weights removed"
    figure.colorbar(image, ax=list(panels), label=label, extend="max" if stores else "neither")


def draw_unit_map(figure: Any, axes: Any, front: Sequence[Strategy], units: Sequence[str], *, whole: bool) -> None:  # noqa: ANN401
    """Draw all units (rows) at all budgets (columns).

    Args:
        figure: Gets the scale.
        axes: Where to draw.
        front: Strategies, the smallest removal first.
        units: All units, in order.
        whole: Whether they are blocks that stay or go.
    """
    shares = [[strategy.shares.get(unit, 0.0) for strategy in front] for unit in units]
    image = axes.pcolormesh(shares, edgecolors="#DDDDDD", linewidth=0.3, **_SHADES)
    axes.set_title("Which blocks go (dark) at each budget" if whole else "How much of each unit goes at each budget")
    columns = range(0, len(front), -(-len(front) // 15))
    labels = [str(len(front[c].units)) if whole else f"{front[c].sparsity:.2f}" for c in columns]
    axes.set_xticks([column + 0.5 for column in columns], labels)
    axes.set_xlabel(f"blocks removed, of {len(units)}" if whole else "sparsity")
    rows = range(0, len(units), -(-len(units) // _LABELS))
    numbered = all(unit.rpartition(".")[2].isdigit() for unit in units)
    names = [units[row].rpartition(".")[2] if numbered else escape_picture(units[row]) for row in rows]
    axes.set_yticks([row + 0.5 for row in rows], names, fontsize=7)
    prefixes = {unit.rpartition(".")[0] for unit in units}
    axes.set_ylabel(
        f"block, first to last ({escape_picture(prefixes.pop())})" if whole and len(prefixes) == 1 else "unit"
    )
    axes.invert_yaxis()
    if not whole:
        figure.colorbar(image, ax=axes, label="share of the unit's weights removed")
