r"""How fast the divergence rises with the sparsity of every linear, all of them from one backward pass.

Notation
    s_e: sparsity of level e of the database, s_0 = 0 the dense weight; W_e: a linear's weight at that level
    a, b: the levels on either side of a linear's share; its own level's neighbours where it is exactly at one
    x, delta: what enters a linear, and the gradient of the divergence with respect to what leaves it
    slope: ``d KL / d s`` of one linear at a model that carries a plan

With ``dW/ds`` taken as ``(W_b - W_a) / (s_b - s_a)``,

    ``slope = sum_t delta_t . (dW/ds x_t)``,

so no gradient of a weight is ever held. Derived here; the first-order use of gradients follows Molchanov et al. 2017.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from unicuco_plugin.levels.stitch import Stitcher
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.models.tensors.gradients import gradients_inside
from unicuco_plugin.models.tensors.storage import compute_device, read_kept, sent

__all__ = ["TOKEN_COST", "measure_slopes", "uniform_plan"]

# Evaluation tokens that one position of a forward and backward pass counts as: a backward pass costs two forwards.
TOKEN_COST = 3


def uniform_plan(levels: Levels, level: int) -> dict[str, int]:
    """The plan of a model whose linears are all at one level from 1 on."""
    return {name: int(levels.linear(name).zeros[level].sum()) for name in levels.sizes}


def measure_slopes(
    decoder: Decoder, levels: Levels, windows: Tensor, plan: Mapping[str, int], *, cache_bytes: int = 2**31
) -> dict[str, float]:
    """Measure slopes of every linear of a database at a model that carries a plan.

    Args:
        decoder: The dense model; dense again afterwards, however it ends.
        levels: The database built from it, of two levels or more.
        windows: ``m x L`` token ids; one passes at a time.
        plan: Zeros by the full name of the linear; those it does not name are dense.
        cache_bytes: Most bytes of decoded levels that the database keeps meanwhile.

    Returns:
        One slope by linear; nats per token and unit of the linear's own sparsity. Costs
        ``windows.numel() * TOKEN_COST`` evaluation tokens.

    Raises:
        LevelsError: If the database or the plan does not fit the model.
        EvaluationError: If a slope is not finite.
    """
    linears = decoder.all_linears()
    found: dict[str, Tensor] = {}
    with gradients_inside(decoder.model), Stitcher(decoder, levels, cache_bytes=cache_bytes) as stitcher:
        # Made when a linear is reached: all of them together are as large as the model.
        changes = {
            name: partial(_change, levels, read_kept(linears[name], "weight"), name, plan.get(name, 0), cache_bytes)
            for name in levels.sizes
        }
        dense = [_log_probabilities(decoder, window) for window in windows]
        stitcher.apply(plan)
        with _watched(linears, changes, found):
            for window, log_p in zip(windows, dense, strict=True):
                _backward(decoder, window, log_p)
    sums = dict.fromkeys(levels.sizes, 0.0)  # that of a linear which no token reached
    if found:
        place = next(iter(found.values())).device
        sums |= zip(found, torch.stack([total.to(place) for total in found.values()]).tolist(), strict=True)
    check_finite("slope", sums, decoder.model.dtype)
    return {name: value / len(windows) for name, value in sums.items()}


def _change(levels: Levels, dense: Tensor, name: str, count: int, cache_bytes: int) -> Tensor:
    """``dW/ds`` at a count of zeros, in the weight's dtype."""

    def decoded(level: int) -> Tensor:
        decode = partial(stored.decode, level, dense.device)
        return levels.decoded.get(name, level, dense.device, decode, cache_bytes)

    stored = levels.linear(name)
    zeros = stored.zeros.sum(1)
    top = len(zeros) - 1
    below = max(min(int((zeros < count).sum()) - 1, top - 1), 0)
    above = min(max(top + 1 - int((zeros > count).sum()), below + 1), top)
    lower = decoded(below) if below else dense
    share = (zeros[above] - zeros[below]).item() / dense.numel()
    return (decoded(above) - lower) / max(share, 1e-9)


@torch.no_grad()
def _log_probabilities(decoder: Decoder, window: Tensor) -> Tensor:
    ids = sent(window[None], compute_device(decoder.model))
    logits: Tensor = decoder.model(input_ids=ids, use_cache=False).logits[0]
    return logits.float().log_softmax(-1)


@torch.enable_grad()
def _backward(decoder: Decoder, window: Tensor, log_p: Tensor) -> None:
    ids = sent(window[None], compute_device(decoder.model))
    log_q = decoder.model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean").backward()


@contextmanager
def _watched(
    linears: Mapping[str, nn.Linear], changes: Mapping[str, Callable[[], Tensor]], found: dict[str, Tensor]
) -> Iterator[None]:
    def add(name: str, moved: Tensor, gradient: Tensor) -> None:
        slope = torch.sum(gradient.float() * moved.float()).double()
        found[name] = found[name] + slope if name in found else slope

    def watch(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            moved = nn.functional.linear(inputs[0].detach(), changes[name]())
            output.register_hook(partial(add, name, moved))

    hooks = [linears[name].register_forward_hook(partial(watch, name)) for name in changes]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
