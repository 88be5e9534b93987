"""What a server keeps for each sequence, and how wide a step is: seen in a run of the model without weights.

Keys and values are those that Transformers' own cache holds after two tokens, layer by layer, so that windows, grouped
heads and layers that keep a state of one size are told by the cache itself. Where attention is latent a server keeps
the compressed vector instead, whose size the configuration says.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.blocks.mixtures import find_fused
from unicuco_plugin.models.checkpoints.loadability import build_sketch
from unicuco_plugin.models.families.known import family_of
from unicuco_plugin.models.sketch import run_sketch
from unicuco_plugin.models.tensors.storage import count_parameters

__all__ = ["KeptLayer", "ServedSizes", "served_sizes"]

# What Transformers' layers of a cache call what grows with every token, and what does not.
_GROWING, _FIXED = ("keys", "values"), ("conv_states", "recurrent_states")


@dataclass(frozen=True)
class KeptLayer:
    """What one layer keeps for a sequence.

    Attributes:
        holder: Full name of the module that it goes with: the block's attention, or the block.
        numbers: Numbers for each token.
        window: Most tokens that are kept; 0 where all are.
        state: Numbers that are kept whatever the length.
    """

    holder: str
    numbers: int
    window: int
    state: int


@dataclass(frozen=True)
class ServedSizes:
    """What a model needs while it is served, beside its weights.

    Attributes:
        layers: Those that keep something.
        widest: Numbers for each token of a step where it is widest: the states, their normed copy, and what the
            linears of one half of a block read and write.
        logits: Numbers for each sequence whose next token is drawn.
    """

    layers: tuple[KeptLayer, ...]
    widest: int
    logits: int


def served_sizes(decoder: Decoder) -> ServedSizes | None:
    """Look at what a model keeps, and how wide it is, from its configuration alone.

    Args:
        decoder: The dense model; it is neither run nor changed.

    Returns:
        None where the family cannot be run without weights, or has a cache of its own.
    """
    try:
        sketch = find_decoder(build_sketch(type(decoder.model), decoder.model.config).eval())
        layers = run_sketch(sketch.model, use_cache=True).past_key_values.layers
    except Exception:  # whatever a family does with numbers that are not there
        return None
    if len(layers) != len(sketch.blocks):
        return None
    kept = [_kept(sketch, index, layer) for index, layer in enumerate(layers)]
    hidden = sketch.config.hidden_size
    return ServedSizes(
        layers=tuple(layer for layer in kept if layer.numbers or layer.state),
        widest=2 * hidden + max(_width(sketch, block, hidden) for block in sketch.blocks),
        logits=sketch.config.vocab_size,
    )


def _kept(sketch: Decoder, index: int, layer: Any) -> KeptLayer:  # noqa: ANN401 - Transformers' layers are untyped
    names = sketch.halves(index)["attention"]
    numbers = sum(tensor.numel() // tensor.shape[-2] for tensor in _full(layer.__dict__.get(n) for n in _GROWING))
    states = [tensor for name in _FIXED for tensor in _full((layer.__dict__.get(name) or {}).values())]
    return KeptLayer(
        holder=names[0] if len(names) == 1 else sketch.block_names[index],
        numbers=(_latent(sketch.config) or numbers) if numbers else 0,
        window=getattr(layer, sketch.family.window, None) or 0,
        state=sum(tensor.numel() for tensor in states),
    )


def _full(found: Iterable[object]) -> list[Tensor]:
    return [tensor for tensor in found if isinstance(tensor, Tensor) and tensor.numel()]


def _latent(config: PreTrainedConfig) -> int:
    """What is kept of a token where attention is latent, else 0."""
    sizes = [getattr(config, name, None) for name in family_of(config).latent]
    return sum(size for size in sizes if isinstance(size, int)) if all(isinstance(s, int) for s in sizes) else 0


def _width(sketch: Decoder, block: nn.Module, hidden: int) -> int:
    """Numbers that the linears of the widest child of a block read and write for a token, beside the states.

    Each linear has the states on one side: its weights are as many as the numbers on its other side, times theirs.
    """
    widest = 0
    for child in block.children():
        experts = sum(map(count_parameters, find_fused(child).values()))
        count, chosen = _experts(sketch.config, child)
        widest = max(widest, (count_parameters(child) - experts + experts * chosen // count) // hidden)
    return widest


def _experts(config: PreTrainedConfig, child: nn.Module) -> tuple[int, int]:
    """How many experts there are, and how many of them a token goes through."""
    stack = next(iter(find_fused(child).values()), None)
    if stack is None:
        return 1, 1
    count = next(parameter.shape[0] for parameter in stack.parameters() if parameter.dim() > 2)
    found = (getattr(config, name, None) for name in family_of(config).chosen)
    return count, next((number for number in found if isinstance(number, int)), count)
