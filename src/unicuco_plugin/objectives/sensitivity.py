r"""How fast the divergence rises with the sparsity of every linear, all of them from one backward pass a level.

Notation
    s_e: sparsity of level e of the database, s_0 = 0 the dense weight; W_e: a linear's weight at that level
    x, delta: what enters a linear, and the gradient of the divergence with respect to what leaves it
    slope: ``d KL / d s`` of one linear at a model whose linears are all at level e

With ``dW/ds`` taken as ``(W_{e+1} - W_{e-1}) / (s_{e+1} - s_{e-1})``,

    ``slope = sum_t delta_t . (dW/ds x_t)``,

so no gradient of a weight is ever held. Derived here; the first-order use of gradients follows Molchanov et al. 2017.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from unicuco_plugin.levels.stitch import Stitcher
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.decoder import Decoder

__all__ = ["TOKEN_COST", "inner_levels", "measure_slopes"]

# Evaluation tokens that one position of a forward and backward pass counts as: a backward pass costs two forwards.
TOKEN_COST = 3


def inner_levels(levels: Levels) -> range:
    """The levels with a neighbour on either side, where slopes can be measured; dense counts as a neighbour."""
    return range(1, len(levels.sparsities))


def measure_slopes(
    decoder: Decoder, levels: Levels, windows: Tensor, at: Sequence[int], *, cache_bytes: int = 2**31
) -> dict[str, list[float]]:
    """Measure slopes of every linear of a database, at models that are uniformly at one level each.

    Args:
        decoder: The dense model; dense again afterwards, however it ends.
        levels: The database built from it.
        windows: ``m x L`` token ids; one passes at a time.
        at: Levels, each in ``inner_levels``.
        cache_bytes: Most bytes of decoded levels to keep.

    Returns:
        One slope for each of ``at``, by linear; nats per token and unit of the linear's own sparsity. Costs
        ``len(at) * windows.numel() * TOKEN_COST`` evaluation tokens.

    Raises:
        LevelsError: If the database does not fit the model.
    """
    slopes: dict[str, list[float]] = {name: [] for name in levels.sizes}
    linears = {name: linear for i in range(len(decoder.blocks)) for name, linear in decoder.linears(i).items()}
    with _frozen(decoder.model), Stitcher(decoder, levels, cache_bytes=cache_bytes) as stitcher:
        for level in at:
            found = dict.fromkeys(slopes, 0.0)
            changes = {name: _change(levels, linears[name], name, level) for name in slopes}
            dense = [_log_probabilities(decoder, window) for window in windows]
            stitcher.apply({name: int(levels.linear(name).zeros[level].sum()) for name in slopes})
            with _watched(linears, changes, found):
                for window, log_p in zip(windows, dense, strict=True):
                    _backward(decoder, window, log_p)
            stitcher.restore()
            for name, value in found.items():
                slopes[name].append(value / len(windows))
    return slopes


def _change(levels: Levels, linear: nn.Linear, name: str, level: int) -> Tensor:
    """``dW/ds`` at a level, in the weight's dtype."""
    stored, ladder = levels.linear(name), (0.0, *levels.sparsities)
    below = linear.weight.data if level == 1 else stored.decode(level - 1, linear.weight.device)
    above = stored.decode(level + 1, linear.weight.device)
    return (above - below) / (ladder[level + 1] - ladder[level - 1])


@torch.no_grad()
def _log_probabilities(decoder: Decoder, window: Tensor) -> Tensor:
    ids = window[None].to(decoder.model.device)
    logits: Tensor = decoder.model(input_ids=ids, use_cache=False).logits[0]
    return logits.float().log_softmax(-1)


@torch.enable_grad()
def _backward(decoder: Decoder, window: Tensor, log_p: Tensor) -> None:
    ids = window[None].to(decoder.model.device)
    embedded = decoder.model.get_input_embeddings()(ids).detach().requires_grad_(True)
    log_q = decoder.model(inputs_embeds=embedded, use_cache=False).logits[0].float().log_softmax(-1)
    torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean").backward()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter ask for a gradient."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def _watched(linears: dict[str, nn.Linear], changes: dict[str, Tensor], found: dict[str, float]) -> Iterator[None]:
    def add(name: str, moved: Tensor, gradient: Tensor) -> None:
        found[name] += torch.sum(gradient.float() * moved.float()).item()

    def watch(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            moved = nn.functional.linear(inputs[0].detach(), changes[name])
            output.register_hook(partial(add, name, moved))

    hooks = [linears[name].register_forward_hook(partial(watch, name)) for name in changes]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
