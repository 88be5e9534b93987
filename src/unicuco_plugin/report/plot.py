"""A picture of a profile: what each budget costs, and which units go."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unicuco_plugin.errors import ExportError
from unicuco_plugin.escaping import escape_picture
from unicuco_plugin.report.figure import COLOURS, check_picture, new_figure, save_figure
from unicuco_plugin.report.unit_map import MAPS, BlockGrid, draw_block_maps, draw_unit_map
from unicuco_plugin.strategy import Strategy

__all__ = ["plot_front"]

_MEASURED, _PREDICTED = COLOURS[:2]


def plot_front(front: Sequence[Strategy], units: Sequence[str], path: Path, *, title: str) -> None:
    """Draw a front: divergence against removal, and beside it the share removed of each unit.

    Units that are blocks share one panel with all budgets; the parts of blocks get a map of blocks by parts at each of
    several budgets.

    Args:
        front: Strategies, the smallest removal first.
        units: All units of the space, in order.
        path: The file to write, replaced if it exists; its ending names the format.
        title: What stands above both panels.

    Raises:
        ExportError: If the ending is none of .png, .svg and .pdf, there is nothing to draw, or the file cannot be
            written.
    """
    check_picture(path)
    if not front:
        raise ExportError(f"{path}: the profile holds no strategy to draw")
    save_figure(_draw(front, units, title), path)


def _draw(front: Sequence[Strategy], units: Sequence[str], title: str) -> Any:  # noqa: ANN401 - matplotlib is untyped
    grid = BlockGrid.of(units)
    count = min(len(front), MAPS) if grid else 1
    figure = new_figure(12, 5.2)
    figure.suptitle(escape_picture(title))
    panels = figure.subplots(1, 1 + count, width_ratios=[count * 1.0, *[1.0] * count])
    _draw_front(panels[0], front, len(units))
    if grid:
        draw_block_maps(figure, panels[1:], front, grid)
    else:
        draw_unit_map(figure, panels[1], front, units, whole=_is_whole(front))
    return figure


def _draw_front(axes: Any, front: Sequence[Strategy], count: int) -> None:  # noqa: ANN401
    whole = _is_whole(front)
    stores = all(strategy.bits is not None for strategy in front)
    known = [(_place(s, whole=whole), s.divergence) for s in front if s.divergence is not None]
    axes.plot(
        [place for place, _ in known],
        [divergence.mean for _, divergence in known],
        color="#BBBBBB",
        linewidth=1,
        zorder=1,
    )
    for measured, colour, marker, label in (
        (True, _MEASURED, "o", "measured"),
        (False, _PREDICTED, "D", "predicted"),
    ):
        chosen = [(place, divergence) for place, divergence in known if divergence.measured is measured]
        if not chosen:
            continue
        # An interval need not contain its mean; error bars must not be negative.
        below = [max(0.0, found.mean - found.interval90[0]) for _, found in chosen]
        above = [max(0.0, found.interval90[1] - found.mean) for _, found in chosen]
        axes.errorbar(
            [place for place, _ in chosen],
            [found.mean for _, found in chosen],
            yerr=[below, above],
            color=colour,
            fmt=marker,
            markersize=4,
            capsize=2,
            linewidth=1,
            label=f"{label}, with 90 % interval",
        )
    axes.set_title("What each budget costs")
    bits = "mean bits of a weight, scales counted" if stores else "sparsity (share of prunable weights removed)"
    axes.set_xlabel(f"blocks removed, of {count}" if whole else bits)
    if stores:
        axes.invert_xaxis()
    axes.set_ylabel("divergence from the dense model (nats per token)")
    axes.set_ylim(bottom=0)
    if whole:
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=True, color="#EEEEEE")
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", framealpha=1.0, edgecolor="white")


def _place(strategy: Strategy, *, whole: bool) -> float:
    if strategy.bits is not None:
        return strategy.bits
    return len(strategy.units) if whole else strategy.sparsity


def _is_whole(front: Sequence[Strategy]) -> bool:
    """Whether units are blocks that go as a whole, so that they can be counted."""
    if any(strategy.bits is not None for strategy in front):
        return False
    units = [pair for strategy in front for pair in strategy.units.items()]
    return all(share == 1.0 and name.rpartition(".")[2].isdigit() for name, share in units)
