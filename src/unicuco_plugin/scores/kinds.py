"""One kind of module of a structured space alone: its attentions, or its MLPs."""

import torch
from torch import Tensor

from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.families.family import Kind
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.spaces.structured import StructuredSpace

__all__ = ["embed", "kind_space"]


def kind_space(space: StructuredSpace, decoder: Decoder, kind: Kind) -> tuple[StructuredSpace, Tensor]:
    """The space of one kind of module alone, and the places of its units in the whole.

    Args:
        space: Of all modules.
        decoder: The dense model.
        kind: ``attention`` or ``mlp``.
    """
    parts = find_parts(decoder)
    places = [index for index, name in enumerate(space.units) if parts[name].kind == kind]
    fields = (space.unit_names, space.unit_params, space.unit_parts)
    names, params, counts = (tuple(field[i] for i in places) for field in fields)
    return StructuredSpace(names, params, counts), torch.tensor(places)  # type: ignore[arg-type]


def embed(x: Tensor, places: Tensor, space: StructuredSpace) -> Tensor:
    """A strategy of some units as one of all, whose others keep everything."""
    return torch.zeros(len(space.units), dtype=torch.float64).scatter(0, places, x)
