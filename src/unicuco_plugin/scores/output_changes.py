r"""How much a scheme of one linear would change the loss, from the gradient of the loss at the linear's output.

====== ===== ==========================================================================
symbol shape meaning
====== ===== ==========================================================================
y      t x r outputs of a linear at ``t`` positions
dy     t x r what a scheme changes them by
g      t x r gradient of a window's summed next-token loss with respect to ``y``
====== ===== ==========================================================================
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.levels.stored import round_inputs
from unicuco_plugin.models.blocks.backward import backpropagate, next_token_loss
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.progress import Progress

__all__ = ["changes_tokens", "output_changes"]

# Decoded weights that the database keeps meanwhile, as the evaluators let it.
_CACHE_BYTES = 2**31


def output_changes(
    decoder: Decoder,
    levels: SchemeLevels,
    schemes: Mapping[str, Sequence[str]],
    windows: Tensor,
    progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, dict[str, float]]:
    """Score every linear in every scheme by ``sum_t sum_r g^2 dy^2``, the diagonal of a Fisher matrix.

    Args:
        decoder: The dense model; it is only read.
        levels: Its database.
        schemes: Linear → schemes to score.
        windows: ``m x L`` token ids, ``L`` at least 2; one passes at a time.
        progress: Called before each block is gone back through, and at the end.

    Returns:
        Linear → scheme → score, in squared nats; :func:`changes_tokens` says what they cost.

    Source:
        ModelOpt's ``auto_quantize``, method ``gradient``.
    """
    linears = decoder.all_linears()
    found: dict[str, Tensor] = {}  # on the device

    def note(name: str, x: Tensor, gradient: Tensor) -> None:
        g2, linear = gradient.flatten(0, -2).float().square(), linears[name]
        dense, scores = linear.weight.float(), []
        for scheme in schemes[name]:
            decode = partial(levels.decode, name, scheme, dense.device)
            stored = levels.decoded.get(name, scheme, dense.device, decode, _CACHE_BYTES).float()
            rounded = round_inputs(scheme, linear, x)
            dy = rounded.float() @ (stored - dense).T
            if rounded is not x:
                dy += (rounded - x).float() @ dense.T
            scores.append((g2 * dy.flatten(0, -2).square()).sum().double())
        found[name] = found[name] + torch.stack(scores) if name in found else torch.stack(scores)

    def tell(done: int) -> None:
        progress(Progress("scoring schemes", done, len(decoder.blocks)))

    watched = {name: linears[name] for name, offered in schemes.items() if offered}
    runner = BlockRunner(decoder, windows.shape[1])
    backpropagate(runner, windows, next_token_loss(windows), watched, note, tell=tell)
    return {
        name: dict(zip(of, found[name].tolist() if name in found else [0.0] * len(of), strict=True))
        for name, of in schemes.items()
    }


def changes_tokens(schemes: Mapping[str, Sequence[str]], windows: Tensor) -> int:
    """Evaluation tokens of :func:`output_changes`: three passes for forward and backward, and one for every scheme."""
    return (3 + max(map(len, schemes.values()), default=0)) * windows.numel()
