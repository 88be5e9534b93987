"""Kept parts applied to a live model, in one of three formats."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel

from unicuco_plugin.errors import StrategyError, UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.families.family import HALVES
from unicuco_plugin.models.parts.cuts import check_cuts
from unicuco_plugin.models.parts.deci import check_deci, close_deci
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.models.parts.shrink import check_shrinkable, close_shape, gone_blocks, slice_modules
from unicuco_plugin.models.parts.zeroing import check_room, close_zeros, zero_modules
from unicuco_plugin.models.tensors.snapshot import Snapshot

__all__ = ["FORMATS", "Format", "apply_parts", "smallest_served"]


@dataclass(frozen=True)
class Format:
    """How parts leave a model: at once for whoever runs it, and then for whoever saves it.

    Attributes:
        check: Refuses a model, or kept parts, that the format cannot carry; changes nothing.
        open: Takes the parts out of the computation; returns what puts them back.
        close: Makes the model one that its configuration describes; returns the configuration fields that changed.
    """

    check: Callable[[Decoder, KeptParts], None]
    open: Callable[[Decoder, KeptParts], Callable[[], None]]
    close: Callable[[Decoder, KeptParts], frozenset[str]]


def _check_compact(decoder: Decoder, parts: KeptParts) -> None:
    check_shrinkable(decoder)
    check_cuts(decoder)
    parts.check(decoder)


def _check_uneven(decoder: Decoder, parts: KeptParts) -> None:
    _check_compact(decoder, parts)
    check_deci(decoder, parts)


def _check_stock(decoder: Decoder, parts: KeptParts) -> None:
    check_cuts(decoder)
    parts.check(decoder)
    check_room(decoder, parts)


FORMATS: Mapping[str, Format] = {
    "compact": Format(_check_compact, slice_modules, close_shape),
    "deci": Format(_check_uneven, slice_modules, close_deci),
    "stock": Format(_check_stock, zero_modules, close_zeros),
}


def smallest_served(decoder: Decoder, parts: KeptParts) -> str | None:
    """The smallest form that vLLM loads, of those that are smaller than the dense model; None where there is none.

    Args:
        decoder: The dense model.
        parts: What stays.
    """
    gone = {decoder.block_names[index] for index in gone_blocks(decoder, parts)}
    try:
        sizes = {
            (part.kind, len(parts.kept.get(name, range(part.count))))
            for name, part in find_parts(decoder).items()
            if name.rpartition(".")[0] not in gone
        }
        if len(sizes) <= len(HALVES):  # one size for all blocks that stay: a stock checkpoint
            return "compact"
        _check_uneven(decoder, parts)
    except (StrategyError, UnsupportedModelError):
        return None
    return "deci"


def apply_parts(model: PreTrainedModel, parts: KeptParts, *, format: str = "compact") -> frozenset[str]:
    """Remove everything that does not stay, for good.

    The logits are those of the model whose removed parts give zeros and whose modules add their biases. ``compact``:
    the model is smaller. Where all blocks that stay have one size it stays one of its family; otherwise it becomes a
    compact one, whose ``save_pretrained`` writes what :func:`unicuco_plugin.load` and ``trust_remote_code`` load.
    ``deci``: as small, in the form that vLLM loads, too; attentions stay or go whole, and nothing has a bias for what
    went.
    ``stock``: weights are zeroed, and the model is as large as it was.

    Args:
        model: A dense causal language model, on any device; changed in place.
        parts: What stays.
        format: ``compact``, ``deci`` or ``stock``.

    Returns:
        The configuration fields that changed.

    Raises:
        StrategyError: If ``parts`` is not for this model.
        UnsupportedModelError: If the format cannot carry this model. After any error the model is as it was.
    """
    decoder, chosen = find_decoder(model), FORMATS[format]
    chosen.check(decoder, parts)
    snapshot = Snapshot(model)
    try:
        chosen.open(decoder, parts)
        return chosen.close(decoder, parts)
    except BaseException:
        snapshot.restore()
        raise
