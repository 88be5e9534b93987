"""What peers of structured pruning share: the space of a model's parts, and strategies of it."""

import time

from torch import Tensor

from unicuco_plugin.errors import RequestError, round_down
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.families.family import Kind
from unicuco_plugin.models.parts.cuts import check_cuts
from unicuco_plugin.peers.peer import PeerResult
from unicuco_plugin.spaces.structured import ROUND_TO, StructuredSpace

__all__ = ["parts_result", "parts_space", "within_kind"]


def parts_space(decoder: Decoder, *, round_to: int = ROUND_TO) -> StructuredSpace:
    """The space of a model's head groups and neurons.

    Raises:
        UnsupportedModelError: If the model's modules cannot be split into parts, or parts cannot go one by one.
    """
    parts = check_cuts(decoder).values()
    return StructuredSpace(
        tuple(part.name for part in parts),
        tuple(part.params * part.count for part in parts),
        tuple((part.count, 1 if part.kind == "attention" else min(round_to, part.count)) for part in parts),
    )


def within_kind(space: StructuredSpace, inner: StructuredSpace, kind: Kind, sparsity: float) -> float:
    """The share of one kind's parameters that is a share of all.

    Raises:
        RequestError: If the kind has too few.
    """
    share = (inner.params.sum() / space.params.sum()).item()
    try:
        return inner.reaching(sparsity / share)
    except RequestError as error:
        raise RequestError(
            f"sparsity must be at most {round_down(share * (1.0 - 1e-6))} where only {kind} modules go, got {sparsity}"
        ) from error


def parts_result(
    space: StructuredSpace, x: Tensor, started: float, tokens: int, details: dict[str, object]
) -> PeerResult:
    """The result of a strategy ``d``."""
    seconds = time.perf_counter() - started
    return PeerResult("structured", space.to_units(x), space.sparsity(x[None]).item(), tokens, seconds, details)
