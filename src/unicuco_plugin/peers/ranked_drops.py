"""Peers that measure what the model loses without a block: once for each, or again after every drop."""

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from unicuco_plugin.errors import CalibrationError, RequestError, round_down
from unicuco_plugin.evaluation.comparison import compare_models
from unicuco_plugin.models.blocks.bypass import bypassed
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.objectives.room import Room
from unicuco_plugin.peers.blocks import check_blocks, drop_ranked, drop_result, may_go
from unicuco_plugin.peers.peer import PeerRequest, PeerResult, choose_space, room_for
from unicuco_plugin.peers.rounds import Rounds
from unicuco_plugin.progress import Progress
from unicuco_plugin.texts.calibration import calibration_hash

__all__ = ["Greedy", "ShortenedLlama"]

# Shares are sums of floats: a budget that is a block boundary must not cost one block more.
_SLACK = 1e-9


@dataclass(frozen=True)
class ShortenedLlama:
    """Drops the blocks without which, one at a time, the perplexity of the calibration windows is lowest.

    Source:
        Kim et al. 2024, "Shortened LLaMA: Depth Pruning for Large Language Models", its criterion PPL.
    """

    spaces: ClassVar[tuple[str, ...]] = ("depth",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows", "journal"})
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Measure, rank and drop; see :class:`Peer`. A journal makes it resume, and serves every budget.

        Raises:
            CalibrationError: If windows are shorter than 2 tokens.
            JournalError: If the journal is in use, damaged, or belongs to other arguments.
        """
        choose_space(self, request)
        check_blocks(request)
        count = len(request.decoder.blocks)
        with Rounds(request.journal, _header("shortened_llama", request)) as rounds:
            for index in range(count):
                request.progress(Progress("removing single blocks", index, count, index * request.windows.numel()))
                rounds.once(index, partial(_without, request, index))
            logs = [rounds[index]["nll"] for index in range(count)]
            started = time.perf_counter() - sum(rounds[index]["seconds"] for index in range(count))
        tokens = count * request.windows.numel()
        request.progress(Progress("removing single blocks", count, count, tokens))
        if not all(math.isfinite(value) for value in logs):
            raise CalibrationError("perplexity must be finite on the calibration windows; give other text")
        details: dict[str, object] = {"nll": logs}
        return drop_ranked(request, logs, started, tokens, details)


@dataclass(frozen=True)
class Greedy:
    """Drops one block after another, each time the one without which the divergence rises least, until a share is gone.

    Source:
        The iteration of SLEB (Song et al. 2024), on KL(dense‖pruned) instead of its log-likelihood.
    """

    spaces: ClassVar[tuple[str, ...]] = ("depth",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows", "journal"})
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Measure and drop; see :class:`Peer`. A journal makes it resume, also on the way to a larger budget.

        Raises:
            JournalError: If the journal is in use, damaged, or belongs to other arguments.
        """
        choose_space(self, request)
        space = check_blocks(request)
        evaluator = BlockEvaluator(request.decoder, request.windows, batch_windows=request.batch_windows)
        room = room_for(request)
        dropped: list[int] = []
        tokens, seconds, values = 0, 0.0, []
        total, share = sum(space.unit_params), 0
        with Rounds(request.journal, _header("greedy", request)) as rounds:
            while share < (request.sparsity - _SLACK) * total:
                request.progress(Progress("dropping blocks", share, round(request.sparsity * total), tokens))
                left = [index for index in range(len(space.units)) if index not in dropped]
                able = [index for index in left if may_go(space, [*dropped, index])]
                if not able:
                    raise RequestError(
                        f"sparsity must be at most {round_down(share / total)} for greedy, which has dropped all "
                        f"blocks but those that have to stay, got {request.sparsity:.6g}"
                    )
                step = rounds.once(len(dropped), partial(_drop_next, evaluator, room, list(dropped), able))
                dropped.append(step["block"])
                values.append(step["divergence"])
                tokens, seconds = tokens + step["tokens"], seconds + step["seconds"]
                share += space.unit_params[step["block"]]
        request.progress(Progress("dropping blocks", share, share, tokens))
        details: dict[str, object] = {"order": list(dropped), "divergences": values}
        return drop_result(request, dropped, time.perf_counter() - seconds, tokens, details)


def _header(method: str, request: PeerRequest) -> dict[str, object]:
    """What determines the steps of a journal."""
    if request.journal is None:
        return {}
    model, windows = str(fingerprint(request.decoder.model)), calibration_hash(request.windows)
    return {"method": method, "model": model, "windows": windows}


def _without(request: PeerRequest, index: int) -> dict[str, float]:
    started = time.perf_counter()
    with bypassed(request.decoder, [index]):
        nll = compare_models(request.decoder.model, None, request.windows).dense.mean
    return {"nll": nll, "seconds": time.perf_counter() - started}


def _drop_next(evaluator: BlockEvaluator, room: Room, dropped: list[int], left: list[int]) -> dict[str, float | int]:
    started = time.perf_counter()
    found = room.measure(lambda part, _: evaluator.evaluate(part), [[*dropped, index] for index in left])
    value, block = min((evaluation.value, index) for evaluation, index in zip(found, left, strict=True))
    tokens = sum(evaluation.tokens for evaluation in found)
    return {"block": block, "divergence": value, "tokens": tokens, "seconds": time.perf_counter() - started}
