"""One diagram of lines as all of ours look: a title, a light grid, numbers written out, a legend beside it."""

from collections.abc import Callable, Sequence
from typing import Any

from unicuco_plugin.report.figure import new_figure

__all__ = ["add_legend", "new_axes", "scale_plainly", "write_plainly"]

# An axis of less than this ratio between its ends has few round numbers.
_LITTLE = 4.0
# One that spans more is labelled at powers of ten alone.
_MUCH = 1e4


def new_axes(width: float, height: float, title: str) -> tuple[Any, Any]:
    """A figure, in inches, and its axes."""
    figure = new_figure(width, height)
    axes = figure.subplots()
    axes.set_title(title)
    axes.grid(visible=True, color="#EEEEEE")
    axes.set_axisbelow(True)
    return figure, axes


def scale_plainly(axes: Any) -> None:  # noqa: ANN401
    """A logarithmic ordinate whose numbers are written out: 0.5, 1, 2; more of them where it spans little."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs: tuple[float, ...] = (1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
    if high > _LITTLE * low:
        subs = (1.0, 2.0, 3.0, 5.0, 7.0) if high < _MUCH * low else (1.0,)
    write_plainly(axes.yaxis, subs, lambda value: f"{value:g}")


def write_plainly(axis: Any, subs: Sequence[float], write: Callable[[float], str]) -> None:  # noqa: ANN401
    """Ticks of a logarithmic axis at these multiples of powers of ten, and at no others."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415 - slow to import

    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axis.set_minor_formatter(NullFormatter())


def add_legend(figure: Any, axes: Any) -> None:  # noqa: ANN401
    """Say what the lines are, on the right of the axes."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
