"""Peers that remove head groups and neurons: how much of each module goes, by several rules.

Which parts of a module go is not theirs to say: whoever applies a strategy ranks parts (``scores/ranked_parts``).
"""

import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unicuco_plugin.models.families.family import Kind
from unicuco_plugin.objectives.interaction import ROUNDS, InteractionMeter, measure_path
from unicuco_plugin.peers.parts import parts_result, parts_space, within_kind
from unicuco_plugin.peers.peer import PeerRequest, PeerResult, choose_space
from unicuco_plugin.progress import Progress
from unicuco_plugin.scores.flap import flap_shares
from unicuco_plugin.scores.kinds import embed, kind_space
from unicuco_plugin.scores.ranked_parts import rank_parts
from unicuco_plugin.scores.ranking import RANKINGS

__all__ = ["AttentionOnly", "Flap", "Interaction", "MlpOnly", "StructuredUniform"]


@dataclass(frozen=True)
class StructuredUniform:
    """The same share of every attention and MLP, as near as whole steps come."""

    spaces: ClassVar[tuple[str, ...]] = ("structured",)
    takes: ClassVar[frozenset[str]] = frozenset()
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Spread the budget; see :class:`Peer`."""
        choose_space(self, request)
        started = time.perf_counter()
        space = parts_space(request.decoder)
        x = space.project(torch.zeros(1, len(space.units), dtype=torch.float64), request.sparsity)[0]
        return parts_result(space, x, started, 0, {})


@dataclass(frozen=True)
class Flap:
    """One threshold for all parts of the model on scores that are standardised in each module.

    Source:
        An et al. 2024, "Fluctuation-based Adaptive Structured Pruning for Large Language Models", its global search.
    """

    spaces: ClassVar[tuple[str, ...]] = ("structured",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows"})
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Score and cut; see :class:`Peer`."""
        choose_space(self, request)
        started = time.perf_counter()
        space = parts_space(request.decoder)
        space.reaching(request.sparsity)
        request.progress(Progress("scoring parts", 0, 1))
        ranked = rank_parts(request.decoder, request.windows, RANKINGS["flap"], batch_windows=request.batch_windows)
        x = space.spend(flap_shares(space, ranked, request.sparsity)[None], request.sparsity)[0]
        return parts_result(space, x, started, ranked.tokens, {})


@dataclass(frozen=True)
class Interaction:
    """Ratios inverse to interactions, ``p = min(1, c / (TE + eps))``: a reconstruction of a method without public text.

    Attributes:
        kind: ``attention`` or ``mlp`` lets only such modules go, None both.
        rounds: Measurements on the way to the budget.
        most_tokens: Windows beyond so many tokens are left out, but for the first: each round runs the model once for
            every module. Parts are ranked on all windows.

    Source:
        "Let LLM tell what to prune and how much to prune" (ICML 2025), reconstructed; see docs/structured.md.
    """

    kind: Kind | None = None
    rounds: int = ROUNDS
    most_tokens: int = 2048

    spaces: ClassVar[tuple[str, ...]] = ("structured",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows"})
    serves_all: ClassVar[bool] = False

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Measure and assign; see :class:`Peer`."""
        choose_space(self, request)
        started = time.perf_counter()
        decoder, whole = request.decoder, parts_space(request.decoder)
        space, places, budget = whole, torch.arange(len(whole.units)), whole.reaching(request.sparsity)
        if self.kind is not None:
            space, places = kind_space(whole, decoder, self.kind)
            budget = within_kind(whole, space, self.kind, request.sparsity)
        ranked = rank_parts(decoder, request.windows, RANKINGS["flap"], batch_windows=request.batch_windows)
        few = request.windows[: max(1, self.most_tokens // request.windows.shape[1])]
        meter = InteractionMeter(decoder, few, batch_windows=request.batch_windows)
        done = 0

        def measure(x: Tensor) -> Tensor:
            nonlocal done
            request.progress(Progress("masking modules", done, self.rounds, ranked.tokens + meter.tokens))
            done += 1
            return meter.measure(ranked.keep(decoder, space.to_units(x)), space.units)

        path = measure_path(space, measure, budget, rounds=self.rounds)
        tokens = ranked.tokens + meter.tokens
        request.progress(Progress("masking modules", done, self.rounds, tokens))
        rounds = [dict(zip(space.units, TE, strict=True)) for TE in path.TE.tolist()]
        details: dict[str, object] = {"interactions": rounds}
        return parts_result(whole, embed(path.assign(budget), places, whole), started, tokens, details)


@dataclass(frozen=True)
class AttentionOnly(Interaction):
    """The reconstruction where only attentions lose parts."""

    kind: Kind | None = "attention"


@dataclass(frozen=True)
class MlpOnly(Interaction):
    """The reconstruction where only MLPs lose parts."""

    kind: Kind | None = "mlp"
