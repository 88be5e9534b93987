"""ATP: sparsities in arithmetic progression over depth, with one step that a few trials choose."""

import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unicuco_plugin.errors import RequestError
from unicuco_plugin.levels.exchange import Stitching
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.objectives.levelled import LevelEvaluator
from unicuco_plugin.peers.peer import PeerRequest, PeerResult, choose_space, room_for
from unicuco_plugin.progress import Progress
from unicuco_plugin.scores.budget import block_sizes, check_budget, meet_budget, name_units
from unicuco_plugin.spaces.plan import plan_counts

__all__ = ["Atp", "progression", "trial_steps"]


@dataclass(frozen=True)
class Atp:
    """Later blocks are pruned more, ``s_i = s_1 + beta (i - 1)``; the best of several ``beta`` wins.

    A trial is the model stitched from the level database, scored by its divergence on all calibration windows; the
    paper prunes anew for each and reads perplexity on a test text.

    Attributes:
        trials: Values of ``beta``.

    Source:
        Huang et al. 2025, "Determining Layer-wise Sparsity for Large Language Models Through a Theoretical
        Perspective". It steps ``beta`` by 0.002 to below ``min(2 S, 2 (1 - S)) / (L - 1)``, nine trials for its 32
        blocks at 70 %; here always nine, evenly up to there, which is that grid for those.
    """

    trials: int = 9
    spaces: ClassVar[tuple[str, ...]] = ("sparsity",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows", "levels"})
    serves_all: ClassVar[bool] = False

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Find block sparsities; see :class:`Peer`.

        Raises:
            RequestError: If the request has no level database.
        """
        choose_space(self, request)
        check_budget(request.sparsity)
        if not isinstance(request.levels, Levels):
            raise RequestError("atp measures its trials on a level database: give levels, got None")
        started = time.perf_counter()
        sizes, names = block_sizes(request.decoder), request.decoder.block_names
        evaluator = LevelEvaluator(
            Stitching(request.decoder, request.levels), request.windows, batch_windows=request.batch_windows
        )
        room = room_for(request)
        betas = trial_steps(len(sizes), request.sparsity, self.trials)
        trials = []
        for done, beta in enumerate(betas):
            request.progress(Progress("trying steps", done, len(betas), done * request.windows.numel()))
            shares = meet_budget(progression(len(sizes), request.sparsity, beta), sizes, request.sparsity)
            units = name_units(names, shares)
            [found] = room.measure(evaluator.evaluate, [plan_counts(units, request.levels.sizes)])
            trials.append((found.value, beta, units))
        _, beta, units = min(trials, key=lambda trial: trial[:2])
        tokens = len(betas) * request.windows.numel()
        request.progress(Progress("trying steps", len(betas), len(betas), tokens))
        details = {"beta": beta, "trials": [{"beta": step, "divergence": value} for value, step, _ in trials]}
        return PeerResult("sparsity", units, request.sparsity, tokens, time.perf_counter() - started, details)


def progression(count: int, sparsity: float, beta: float) -> Tensor:
    """``count`` sparsities ``S + beta (i - (count - 1) / 2)``, i from 0; their mean is S."""
    return sparsity + beta * (torch.arange(count, dtype=torch.float64) - (count - 1) / 2)


def trial_steps(count: int, sparsity: float, trials: int) -> list[float]:
    """``trials`` steps, evenly between 0 and the largest that keeps all sparsities in [0, 1], both left out."""
    if count < 2:
        return [0.0]
    largest = 2.0 * min(sparsity, 1.0 - sparsity) / (count - 1)
    return [largest * trial / (trials + 1) for trial in range(1, trials + 1)]
