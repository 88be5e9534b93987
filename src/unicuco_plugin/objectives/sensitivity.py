r"""How fast the divergence rises with the sparsity of every linear, all of them from one backward pass by blocks.

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

from unicuco_plugin.levels.exchange import Stitching
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.backward import backpropagate
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.finite import check_finite

__all__ = ["TOKEN_COST", "measure_slopes", "uniform_plan"]

# Evaluation tokens that one position of a forward and backward pass counts as: a backward pass costs two forwards.
TOKEN_COST = 3


def uniform_plan(levels: Levels, level: int) -> dict[str, int]:
    """The plan of a model whose linears are all at one level from 1 on."""
    return {name: int(levels.linear(name).zeros[level].sum()) for name in levels.sizes}


def measure_slopes(
    runner: BlockRunner, levels: Levels, windows: Tensor, plan: Mapping[str, int], *, cache_bytes: int = 2**31
) -> dict[str, float]:
    """Measure slopes of every linear of a database at a model that carries a plan, block by block.

    Args:
        runner: The dense model, not yet used in inference mode; dense again afterwards, however it ends.
        levels: The database built from it, of two levels or more.
        windows: ``m x L`` token ids; one passes at a time.
        plan: Zeros by the full name of the linear; those it does not name are dense.
        cache_bytes: Most bytes of decoded levels that the database keeps meanwhile.

    Returns:
        One slope by linear; nats per token and unit of the linear's own sparsity. Costs
        ``windows.numel() * TOKEN_COST`` evaluation tokens.

    Raises:
        LevelsError: If the database or the plan does not fit the model.
        EvaluationError: If states or a slope are not finite.
    """
    decoder = runner.decoder
    exchange = Stitching(decoder, levels)
    exchange.check(plan)
    linears = exchange.linears
    dense: dict[str, Tensor] = {}  # weights of one block
    changes: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}

    @contextmanager
    def inside(index: int) -> Iterator[None]:
        names = [name for name in decoder.linears(index) if name in linears]
        dense.update({name: linears[name].weight.detach() for name in names})
        try:
            with exchange.inside({name: plan[name] for name in names if plan.get(name)}, cache_bytes):
                yield
        finally:
            dense.clear()
            changes.clear()

    def note(name: str, x: Tensor, gradient: Tensor) -> None:
        if name not in changes:
            changes[name] = _change(levels, dense[name], name, plan.get(name, 0), cache_bytes)
        moved = nn.functional.linear(x, changes[name])
        slope = torch.sum(gradient.float() * moved.float()).double()
        found[name] = found[name] + slope if name in found else slope

    backpropagate(runner, windows, _divergence, linears, note, inside=inside)
    sums = dict.fromkeys(levels.sizes, 0.0)  # that of a linear which no token reached
    if found:
        place = next(iter(found.values())).device
        sums |= zip(found, torch.stack([total.to(place) for total in found.values()]).tolist(), strict=True)
    check_finite("slope", sums, decoder.model.dtype)
    return {name: value / len(windows) for name, value in sums.items()}


def _divergence(_: int, logits: Tensor, dense: Callable[[], Tensor]) -> Tensor:
    log_p, log_q = dense().log_softmax(-1), logits.log_softmax(-1)
    return nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


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
