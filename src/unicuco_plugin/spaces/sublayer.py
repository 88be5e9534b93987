"""The space of sub-layers: the attention and the MLP of every block, each of which stays or goes."""

from dataclasses import dataclass

from unicuco_plugin.spaces.whole import WholeUnits

__all__ = ["SublayerSpace"]


@dataclass(frozen=True)
class SublayerSpace(WholeUnits):
    """Strategies over attentions and MLPs, or whatever mixes tokens and what follows it; see :class:`WholeUnits`."""

    name: str = "sublayer"
    what: str = "sub-layer"
