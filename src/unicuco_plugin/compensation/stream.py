"""All that writes to a model's states before a cut, multiplied by one factor.

A block reads its states through a norm, which a factor passes by, so multiplying what the embedding and every
projection add is multiplying the states themselves. A head tied to the embedding would grow with it; the gain of the
last norm takes that back.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from unicuco_plugin.compensation.projection import is_multiple
from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.blocks.sublayers import output_parameters
from unicuco_plugin.models.tensors.storage import exchanged, kept_tensors, resident

__all__ = ["Place", "check_stream", "stream_factors"]

Place: TypeAlias = tuple[nn.Module, str]
_TOKENS = 8
# A factor that no rounding could be taken for, and that rounds nothing.
_PROBE = 2.0
_WITHIN = 0.02


def stream_factors(decoder: Decoder, gains: Mapping[int, float], removed: Collection[int]) -> list[tuple[Place, float]]:
    """Parameters with the factor of each, so that states behind block ``i`` are multiplied by ``gains[i]``.

    Args:
        decoder: The model with all its blocks.
        gains: By block; several multiply, each all that comes before it.
        removed: Blocks that go, and need none.

    Raises:
        UnsupportedModelError: If its head is tied, and no single norm stands before it.
    """
    total = 1.0
    found: list[tuple[Place, float]] = []
    for index in reversed(range(len(decoder.blocks))):
        total *= gains.get(index, 1.0)
        if total != 1.0 and index not in removed:
            found += [(place, total) for place in output_parameters(decoder, decoder.block_names[index])]
    if total == 1.0:
        return []
    embedding, head = decoder.model.get_input_embeddings(), decoder.model.get_output_embeddings()
    found.append(((embedding, "weight"), total))
    with kept_tensors():
        tied = head is not None and head.weight is embedding.weight
    return found + ([(place, 1.0 / total) for place in _last_norm(decoder)] if tied else [])


@torch.no_grad()
def check_stream(runner: BlockRunner, index: int, removed: Collection[int]) -> None:
    """Make sure that a factor behind a block can be folded into what comes before it.

    Args:
        runner: The model's; nothing is written.
        index: The block before a cut.
        removed: Blocks that go.

    Raises:
        UnsupportedModelError: If states are not multiplied by it, or what the model says of states changes.
    """
    decoder = runner.decoder
    tokens = torch.arange(_TOKENS)[None] % decoder.model.get_input_embeddings().num_embeddings
    factors = stream_factors(decoder, {index: _PROBE}, removed)
    found: list[tuple[float | None, float]] = []

    def compare(
        run: Callable[[Tensor], Tensor], states: Tensor, own: Sequence[tuple[Place, float]], to: float
    ) -> Tensor:
        """What comes of states as they are, and of those multiplied once all that writes is."""
        with resident():
            plain = run(states)
            with _multiplied(decoder, own):
                found.append((is_multiple(run(states * _PROBE), plain, _WITHIN), to))
        return plain

    inside = {block: set(decoder.blocks[block].modules()) for block in range(len(decoder.blocks))}
    others = [(place, factor) for place, factor in factors if not any(place[0] in own for own in inside.values())]
    states = compare(lambda _: runner.embed(tokens), torch.zeros(1), others, _PROBE)
    for block in (block for block in range(index + 1) if block not in removed):
        own = [(place, factor) for place, factor in factors if place[0] in inside[block]]
        states = compare(partial(runner.run, block), states, own, _PROBE)
    compare(runner.logits, states, others, 1.0)
    if any(got is None or abs(got / expected - 1.0) > _WITHIN for got, expected in found):
        raise UnsupportedModelError(
            f"{type(decoder.model).__name__}: states do not follow when all that writes to them is multiplied (norms, "
            "positions), so no factor can be folded in; take another compensation, or none"
        )


@contextmanager
def _multiplied(decoder: Decoder, factors: Sequence[tuple[Place, float]]) -> Iterator[None]:
    by_module: dict[nn.Module, dict[str, Tensor]] = {}
    for (module, name), factor in factors:
        by_module.setdefault(module, {})[name] = getattr(module, name).detach() * factor
    embedding, head = decoder.model.get_input_embeddings(), decoder.model.get_output_embeddings()
    with kept_tensors():
        tied = head is not None and head.weight is embedding.weight
    if tied and embedding in by_module:
        by_module[head] = {"weight": by_module[embedding]["weight"]}
    with ExitStack() as stack:
        for module, values in by_module.items():
            stack.enter_context(exchanged(module, values))
        yield


def _last_norm(decoder: Decoder) -> list[Place]:
    """Weight and bias of the one norm outside the blocks."""
    inside = set(decoder.blocks.modules())
    with kept_tensors():
        found = [
            [(module, name) for name, _ in module.named_parameters(recurse=False)]
            for module in decoder.model.base_model.modules()
            if module not in inside and [p.dim() for p in module._parameters.values() if p is not None][:1] == [1]
        ]
    if len(found) != 1:
        raise UnsupportedModelError(
            f"{type(decoder.model).__name__}: expected one norm before its tied head, found {len(found)}, so no factor "
            "can be folded in; take another compensation, or none"
        )
    return found[0]
