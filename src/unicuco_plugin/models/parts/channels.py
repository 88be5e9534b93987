r"""What enters the output projections of attentions and MLPs, channel by channel, from one pass over calibration text.

====== ===== ==========================================================================
symbol shape meaning
====== ===== ==========================================================================
x      t x c inputs of an output projection at ``t`` positions, ``c`` channels
g      t x c gradient of a window's summed next-token loss with respect to ``x``
====== ===== ==========================================================================
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from unicuco_plugin.models.blocks.backward import backpropagate, next_token_loss
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.parts.parts import Parts, find_parts
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.models.tensors.storage import resident

__all__ = ["ChannelStatistics", "measure_channels", "measure_effects"]


@dataclass(frozen=True)
class ChannelStatistics:
    """Moments of one output projection's input over all positions.

    Attributes:
        mean: ``c`` means, float32.
        variance: ``c`` variances, divided by the number of positions.
        positions: How many positions.
        effect: ``c`` first-order estimates of what the loss changes by without a channel, the mean over windows of
            ``|sum_t x_tj g_tj|``, nats per window; None where they were not measured.
    """

    mean: Tensor
    variance: Tensor
    positions: int
    effect: Tensor | None = None

    @property
    def norm(self) -> Tensor:
        """``c`` Euclidean norms over all positions, ``||x_j||``."""
        return ((self.variance + self.mean**2) * self.positions).sqrt()


@torch.inference_mode()
def measure_channels(decoder: Decoder, windows: Tensor, *, batch_windows: int = 16) -> dict[str, ChannelStatistics]:
    """Run the dense model once, block by block.

    Args:
        decoder: The model; as it was afterwards.
        windows: ``m x L`` token ids, at least one.
        batch_windows: Windows that pass a block together.

    Returns:
        Statistics by the full name of the attention or MLP, on the CPU. Costs ``windows.numel()`` evaluation tokens.

    Raises:
        UnsupportedModelError: If the model's modules cannot be split into parts.
        EvaluationError: If states are not finite, or memory has no room for one window.
    """
    parts = find_parts(decoder)
    runner = BlockRunner(decoder, windows.shape[1])
    sums = Fitting(batch_windows)(lambda size: _sums(runner, parts, windows.split(size)))
    count = windows.numel()
    return {name: _moments(sums[name].cpu() / count, count) for name in parts}


def _sums(runner: BlockRunner, parts: Mapping[str, Parts], batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """Of every channel and of its square, ``2 x c`` for a module; on the device until all windows have passed."""
    sums: dict[str, Tensor] = {}

    def add(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].flatten(0, -2).double()
        found = torch.stack([x.sum(0), x.square().sum(0)])
        sums[name] = sums[name] + found if name in sums else found

    with _watched(runner.decoder, parts, add):
        states = [runner.embed(batch) for batch in batches]
        for index in range(len(runner.decoder.blocks)):
            with resident():  # nothing but this block is run
                states = [runner.run(index, entering) for entering in states]
    runner.check()
    return sums


def _moments(means: Tensor, count: int) -> ChannelStatistics:
    mean, square = means
    return ChannelStatistics(mean.float(), (square - mean**2).clamp_min(0.0).float(), count)


def measure_effects(
    decoder: Decoder, windows: Tensor, statistics: Mapping[str, ChannelStatistics]
) -> dict[str, ChannelStatistics]:
    """Add first-order effects on the next-token loss, from one backward pass by blocks.

    Args:
        decoder: The model; it is only read.
        windows: ``m x L`` token ids, ``L`` at least 2; one passes at a time.
        statistics: What to add them to.

    Returns:
        The statistics with ``effect``. Costs three times ``windows.numel()`` evaluation tokens.

    Source:
        Molchanov et al. 2017, on a mask ``m_j = 1`` of each channel: ``|dL/dm_j|``; LLM-Pruner (Ma et al. 2023) uses
        the same first order on weights.
    """
    parts = find_parts(decoder)
    found: dict[str, Tensor] = {}  # on the device, as above

    def note(name: str, x: Tensor, gradient: Tensor) -> None:
        effect = (x.float() * gradient.float()).flatten(0, -2).sum(0).abs()
        found[name] = found[name] + effect if name in found else effect

    outputs = {name: decoder.model.get_submodule(part.output) for name, part in parts.items()}
    runner = BlockRunner(decoder, windows.shape[1])
    backpropagate(runner, windows, next_token_loss(windows), outputs, note, of_inputs=True)
    return {name: replace(known, effect=found[name].cpu() / len(windows)) for name, known in statistics.items()}


@contextmanager
def _watched(
    decoder: Decoder, parts: Mapping[str, Parts], hook: Callable[[str, nn.Module, tuple[Tensor, ...]], None]
) -> Iterator[None]:
    """Call ``hook(name, projection, inputs)`` before every output projection."""
    hooks = [
        decoder.model.get_submodule(part.output).register_forward_pre_hook(partial(hook, name))
        for name, part in parts.items()
    ]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
