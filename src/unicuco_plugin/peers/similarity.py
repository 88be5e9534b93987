r"""Peers that rank blocks by how little they change the hidden states.

``h_l`` are the states that enter block ``l``, ``h_n`` those that leave the last, before the final norm; means are over
all positions ``t`` of all windows.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from unicuco_plugin.errors import RequestError
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.peers.blocks import check_blocks, drop_ranked, drop_result, may_go
from unicuco_plugin.peers.peer import PeerRequest, PeerResult, choose_space
from unicuco_plugin.progress import Progress

__all__ = ["CosineWindow", "ShortGpt", "WeightSubcloning", "mean_change", "mean_cosine"]

# Shares are sums of floats: a budget that is a block boundary must not cost one block more.
_SLACK = 1e-9


@dataclass(frozen=True)
class _BlockScores:
    """Drops the blocks of the lowest score, each the mean over positions of a measure of the states around it."""

    spaces: ClassVar[tuple[str, ...]] = ("depth",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows"})
    serves_all: ClassVar[bool] = True
    called: ClassVar[str]

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Rank and drop; see :class:`Peer`."""
        choose_space(self, request)
        check_blocks(request)
        started = time.perf_counter()
        scores = [0.0] * len(request.decoder.blocks)
        for states in _states(request):
            weight = len(states[0]) / len(request.windows)
            found = torch.stack([self._score(*pair) for pair in pairwise(states)]).tolist()
            scores = [score + value * weight for score, value in zip(scores, found, strict=True)]
        named = dict(zip(request.decoder.block_names, scores, strict=True))
        check_finite(self.called, named, request.decoder.model.dtype)
        return drop_ranked(request, scores, started, request.windows.numel(), {self.called: scores})

    def _score(self, before: Tensor, after: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class ShortGpt(_BlockScores):
    """Drops the blocks of lowest influence ``1 - mean_t cos(h_l, h_{l+1})``.

    Source:
        Men et al. 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect".
    """

    called: ClassVar[str] = "influence"

    def _score(self, before: Tensor, after: Tensor) -> Tensor:
        return 1.0 - mean_cosine(before, after)


@dataclass(frozen=True)
class WeightSubcloning(_BlockScores):
    """Drops the blocks that add least: lowest ``mean_t ||h_{l+1} - h_l|| / ||h_{l+1}||``.

    Source:
        Samragh et al. 2023, "Weight subcloning: direct initialization of transformers using larger pretrained ones".
    """

    called: ClassVar[str] = "change"

    def _score(self, before: Tensor, after: Tensor) -> Tensor:
        return mean_change(before, after)


@dataclass(frozen=True)
class CosineWindow:
    """Drops the ``k`` consecutive blocks of highest ``mean_t cos(h_s, h_{s+k})``.

    Source:
        Gromov et al. 2024, "The Unreasonable Ineffectiveness of the Deeper Layers".
    """

    spaces: ClassVar[tuple[str, ...]] = ("depth",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows"})
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Rank and drop; see :class:`Peer`."""
        choose_space(self, request)
        started = time.perf_counter()
        windows = _windows(request)
        sums = dict.fromkeys(windows, 0.0)
        for states in _states(request):
            found = torch.stack([mean_cosine(states[window.start], states[window.stop]) for window in windows])
            for window, cosine in zip(windows, found.tolist(), strict=True):
                sums[window] += cosine * len(states[0])
        check_finite("cosine", sums.values(), request.decoder.model.dtype)
        best = max(windows, key=lambda window: sums[window])
        details = {"cosines": {str(w.start): total / len(request.windows) for w, total in sums.items()}}
        return drop_result(request, list(best), started, request.windows.numel(), dict(details))


def mean_cosine(before: Tensor, after: Tensor) -> Tensor:
    """Mean cosine over all positions of two ``… x hidden`` tensors."""
    return cosine_similarity(before.float(), after.float(), dim=-1).double().mean()


def mean_change(before: Tensor, after: Tensor) -> Tensor:
    """Mean of ``||after - before|| / ||after||`` over all positions of two ``… x hidden`` tensors."""
    before, after = before.float(), after.float()
    return ((after - before).norm(dim=-1) / after.norm(dim=-1)).double().mean()


def _windows(request: PeerRequest) -> list[range]:
    """All runs of as few blocks as reach the budget and leave one that generation needs."""
    space = check_blocks(request)
    count = len(space.units)
    least = (request.sparsity - _SLACK) * sum(space.unit_params)
    for length in range(1, count):
        found = [range(start, start + length) for start in range(count - length + 1)]
        reached = [w for w in found if sum(space.unit_params[i] for i in w) >= least and may_go(space, w)]
        if reached:
            return reached
    if space.needed:
        raise RequestError(
            f"cosine_window drops blocks in a row, and no row of them reaches sparsity {request.sparsity:.6g} and "
            "leaves the blocks that generation needs; take another peer, such as shortgpt"
        )
    return [range(count - 1), range(1, count)]


@torch.inference_mode()
def _states(request: PeerRequest) -> Iterator[list[Tensor]]:
    """For each batch of windows, the ``n + 1`` states before, between and after all blocks."""
    runner = BlockRunner(request.decoder, request.windows.shape[1])
    count, done = len(request.decoder.blocks), 0
    for part in request.windows.split(request.batch_windows):
        request.progress(Progress("running windows", done, len(request.windows), done * part.shape[1]))
        states = [runner.embed(part)]
        for index in range(count):
            states.append(runner.run(index, states[-1]))
        runner.check()
        yield states
        done += len(part)
    request.progress(Progress("running windows", done, len(request.windows), request.windows.numel()))
