"""What is told of a strategy under a load: what a server holds, and what a device takes to run it."""

from torch import Tensor

from unicuco_plugin.costs.latency import TimedCosts, under_load
from unicuco_plugin.costs.memory import ServedCosts
from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.quantities import Latency, Load, Memory

__all__ = ["tell_load"]


def tell_load(costs: TableCosts, load: Load, x: Tensor) -> tuple[Memory | None, Latency | None]:
    """What one strategy, ``1 x d``, comes to; None where it is not known, or the load was not timed.

    Raises:
        RequestError: If the costs know neither.
    """
    loaded = under_load(costs, load)
    timed = loaded if isinstance(loaded, TimedCosts) else None
    served, latency = (timed.costs, timed.latency(x)) if timed else (loaded, None)
    if not isinstance(served, ServedCosts):
        return None, latency
    size = int(served.of("bytes", x))
    return Memory(weights=size, cache=int(served.cache(x)), buffers=served.buffers), latency
