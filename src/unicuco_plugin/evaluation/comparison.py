r"""A dense and a pruned model compared on windows of text: perplexities and divergence.

Notation
    m: windows; L: tokens in a window
    nll: ``-log p(x_{i+1} | x_1 … x_i)``, a mean over the L - 1 positions of a window that have a next token
    divergence: ``sum_v p(v) (log p(v) - log q(v))``, dense p and pruned q, a mean over all L positions
    se: standard error over windows, ``s / sqrt(m)`` with the sample standard deviation s; windows are taken as
        independent, tokens within one are not
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import CalibrationError, UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.models.tensors.sending import sent
from unicuco_plugin.models.tensors.storage import compute_device, is_offloaded, resident

__all__ = ["Comparison", "Estimate", "compare_models"]

# Beyond this the exponential is no float.
_MOST_EXPONENT = 709.0


@dataclass(frozen=True)
class Estimate:
    """A mean over windows.

    Attributes:
        mean: The mean.
        standard_error: Its standard error over windows; NaN for a single window.
    """

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Estimate from one value per window."""
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(mean, math.nan)
        variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
        return cls(mean, math.sqrt(variance / len(values)))

    def exp(self) -> "Estimate":
        """The exponential, with its standard error to first order; infinite where floats end."""
        mean = math.exp(self.mean) if self.mean < _MOST_EXPONENT else math.inf
        return Estimate(mean, mean * self.standard_error)


@dataclass(frozen=True)
class Comparison:
    """What two models make of the same windows.

    Attributes:
        dense: Negative log-likelihood of the dense model, nats per token.
        pruned: The same of the pruned model; None without one.
        divergence: Mean KL(dense‖pruned), nats per token; None without a pruned model.
        tokens: Positions scored.
    """

    dense: Estimate
    pruned: Estimate | None
    divergence: Estimate | None
    tokens: int


@torch.inference_mode()
def compare_models(
    dense: nn.Module,
    pruned: nn.Module | None,
    windows: Tensor,
    *,
    positions: int = 128,
    report: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Run both models and compare their distributions in float32, window by window.

    All windows pass a block of an offloaded model before the next is read.

    Args:
        dense: A causal language model in evaluation mode.
        pruned: Another with the same vocabulary, on the same device, or None for the dense one alone.
        windows: An ``m x L`` integer tensor of token ids, L at least 2.
        positions: Positions whose float32 distributions exist at one time.
        report: Called with the number of windows that are done, 0 included.

    Returns:
        The means over windows with their standard errors.

    Raises:
        CalibrationError: If there is no window, or windows are shorter than 2 tokens.
        EvaluationError: If what a model gives on a window is not finite, or memory has no room for one window.
    """
    if windows.dim() != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise CalibrationError(f"windows must be m x L with m at least 1 and L at least 2, got {tuple(windows.shape)}")
    device = compute_device(dense)
    models = (dense,) if pruned is None else (dense, pruned)
    names = ("dense", "pruned")[: len(models)]
    nlls: list[list[float]] = [[] for _ in models]
    divergences: list[float] = []
    fitting = Fitting(1)
    logits_of = fitting(lambda _: [_logits_of(model, windows) for model in models])

    def sums_of(place: int, window: Tensor, _: int = 1) -> tuple[list[float], list[torch.dtype]]:
        logits = [of(place) for of in logits_of]
        sums = _sums(logits, sent(window, logits[0].device), positions)
        return sums.tolist(), [rows.dtype for rows in logits]

    for done, window in enumerate(windows.to(device)):
        report(done)
        sums, dtypes = fitting(partial(sums_of, done, window))
        for name, total, dtype in zip(names, sums, dtypes, strict=False):
            check_finite(f"negative log-likelihood of the {name} model on window {done}", [total], dtype)
        check_finite(f"divergence on window {done}", sums[-1:], dtypes[-1])
        for values, total in zip(nlls, sums, strict=False):
            values.append(total / (len(window) - 1))
        divergences.append(sums[-1] / len(window))
    report(len(windows))
    return Comparison(
        dense=Estimate.of(nlls[0]),
        pruned=None if pruned is None else Estimate.of(nlls[1]),
        divergence=None if pruned is None else Estimate.of(divergences),
        tokens=windows.numel(),
    )


def _logits_of(model: nn.Module, windows: Tensor) -> Callable[[int], Tensor]:
    """What gives a model's ``L x vocabulary`` logits on a window by its place."""
    if is_offloaded(model):
        with suppress(UnsupportedModelError):  # its blocks cannot be run one by one
            return _logits_by_blocks(BlockRunner(find_decoder(model), windows.shape[1]), windows)
    ids = sent(windows, compute_device(model))
    return lambda place: model(input_ids=ids[place][None], use_cache=False).logits[0]


def _logits_by_blocks(runner: BlockRunner, windows: Tensor) -> Callable[[int], Tensor]:
    states = [runner.embed(window[None]) for window in windows]
    for index in range(len(runner.decoder.blocks)):
        with resident():
            states = [runner.run(index, entering) for entering in states]
    runner.check()
    return lambda place: runner.logits(states[place])[0]


def _sums(logits: Sequence[Tensor], window: Tensor, positions: int) -> Tensor:
    """Sums over one window: the negative log-likelihood of each model, then the divergence of the last from the first.

    Float64, where the logits are: nothing waits for them.

    Args:
        logits: ``L x vocabulary`` tensors, one or two.
        window: ``L`` token ids.
        positions: Rows taken at a time.
    """
    sums = torch.zeros(len(logits) + 1, dtype=torch.float64, device=window.device)
    for start in range(0, len(window), positions):
        chunk = slice(start, start + positions)
        logs = [rows[chunk].log_softmax(-1, dtype=torch.float32) for rows in logits]
        following = window[start + 1 : start + positions + 1, None]
        for place, log in enumerate(logs):
            sums[place] -= log[: len(following)].gather(1, following).double().sum()
        if len(logs) == 2:
            sums[-1] += torch.linalg.vecdot(logs[0].exp(), logs[0] - logs[1]).double().sum()
    return sums
