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
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.levels.stored import round_inputs
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.tensors.gradients import gradients_inside
from unicuco_plugin.models.tensors.storage import compute_device, sent
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
        decoder: The dense model; its parameters ask for no gradient meanwhile.
        levels: Its database.
        schemes: Linear → schemes to score.
        windows: ``m x L`` token ids, ``L`` at least 2; one passes at a time.
        progress: Called before each window and at the end.

    Returns:
        Linear → scheme → score, in squared nats; :func:`changes_tokens` says what they cost.

    Source:
        ModelOpt's ``auto_quantize``, method ``gradient``.
    """
    linears = decoder.all_linears()
    found = {name: torch.zeros(len(of), dtype=torch.float64) for name, of in schemes.items()}

    def note(name: str, x: Tensor, gradient: Tensor) -> None:
        g2, linear = gradient.flatten(0, -2).float().square(), linears[name]
        dense = linear.weight.float()
        for place, scheme in enumerate(schemes[name]):
            decode = partial(levels.decode, name, scheme, dense.device)
            stored = levels.decoded.get(name, scheme, dense.device, decode, _CACHE_BYTES).float()
            rounded = round_inputs(scheme, linear, x)
            dy = rounded.float() @ (stored - dense).T
            if rounded is not x:
                dy += (rounded - x).float() @ dense.T
            found[name][place] += (g2 * dy.flatten(0, -2).square()).sum().item()

    def watch(name: str, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        output.register_hook(partial(note, name, args[0].detach()))

    hooks = [linears[name].register_forward_hook(partial(watch, name)) for name in schemes]
    try:
        with gradients_inside(decoder.model), torch.enable_grad():
            for index, window in enumerate(windows):
                progress(Progress("scoring schemes", index, len(windows)))
                ids = sent(window[None], compute_device(decoder.model))
                logits = decoder.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
                cross_entropy(logits, ids[0, 1:].to(logits.device), reduction="sum").backward()
    finally:
        for hook in hooks:
            hook.remove()
    progress(Progress("scoring schemes", len(windows), len(windows)))
    return {name: dict(zip(of, found[name].tolist(), strict=True)) for name, of in schemes.items()}


def changes_tokens(schemes: Mapping[str, Sequence[str]], windows: Tensor) -> int:
    """Evaluation tokens of :func:`output_changes`: three passes for forward and backward, and one for every scheme."""
    return (3 + max(map(len, schemes.values()), default=0)) * windows.numel()
