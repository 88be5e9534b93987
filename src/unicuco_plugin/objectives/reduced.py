"""Divergence of candidates that keep some head groups and neurons of each module."""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from unicuco_plugin.compensation.corrected import Corrected
from unicuco_plugin.compensation.corrections import Corrections
from unicuco_plugin.compensation.narrowed import Narrowed
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.halves import step_names
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import Parts, find_parts, leaving_blocks
from unicuco_plugin.models.parts.reduction import reduced
from unicuco_plugin.objectives.evaluator import evaluate_choices
from unicuco_plugin.objectives.head import DivergenceHead
from unicuco_plugin.objectives.kl import Direction
from unicuco_plugin.objectives.objective import Evaluation, Report
from unicuco_plugin.objectives.prefixes import RUN, SKIP, Change, Prefix, PrefixWalk, inside
from unicuco_plugin.objectives.work import ignore

__all__ = ["ReducedEvaluator", "ReducedWalk"]


class ReducedWalk:
    """Final states of many models that keep some parts, on fixed windows, with what they have in common run once.

    Args:
        runner: The dense model; never modified beyond a call.
        windows: ``m x L`` token ids.
        corrections: What modules that lose parts are corrected with, by halves; None corrects nothing.
        batch_windows: Windows that pass a block together.
        cache_bytes: Most bytes of partial models' states to keep between batches.

    Raises:
        UnsupportedModelError: If the model's modules cannot be split into parts.
    """

    def __init__(
        self,
        runner: BlockRunner,
        windows: Tensor,
        *,
        corrections: Corrections | None = None,
        batch_windows: int = 8,
        cache_bytes: int = 2**28,
    ) -> None:
        self._decoder, self._corrections = runner.decoder, corrections
        parts = find_parts(runner.decoder)
        names = runner.decoder.block_names
        self._blocks = [[p for p in parts.values() if p.name.startswith(f"{name}.")] for name in names]
        self._places = () if corrections is None else step_names(corrections.dense.runner)
        leaving = leaving_blocks(runner.decoder, parts)
        self._leaving = [name in leaving for name in names]
        self._known: dict[Hashable, Change] = {}
        # Not a method: a walk that refers to its owner keeps its states until the garbage collector comes by.
        change = partial(_known_change, self._known)
        self.prefixes = PrefixWalk(runner, windows, change, batch_windows=batch_windows, cache_bytes=cache_bytes)

    def choices(self, candidates: Sequence[KeptParts]) -> list[Prefix]:
        """Every candidate as one choice for each block, as ``prefixes`` takes them until the next call.

        Raises:
            StrategyError: If a candidate does not fit the model.
        """
        self._known.clear()
        for kept in candidates:
            kept.check(self._decoder)
        blocks = list(zip(self._blocks, self._leaving, strict=True))
        return [
            tuple(self._choice(parts, kept, cuts, leaves=leaves) for parts, leaves in blocks)
            for kept, cuts in zip(candidates, map(self._cuts, candidates), strict=True)
        ]

    def _cuts(self, kept: KeptParts) -> dict[str, tuple[int, int]]:
        """Where a module that is corrected stands, and the next one that stays: it gives what those between gave."""
        found, following = {}, len(self._places)
        for place, name in reversed(list(enumerate(self._places))):
            stays = kept.kept.get(name) != ()
            if stays and (following > place + 1 or name in kept.kept):
                found[name] = place, following
            if stays or name in kept.biases:
                following = place
        return found

    def _choice(
        self, parts: Sequence[Parts], kept: KeptParts, cuts: Mapping[str, tuple[int, int]], *, leaves: bool
    ) -> Hashable:
        touched = [part.name for part in parts if part.name in kept.kept.keys() | kept.biases.keys() | cuts.keys()]
        if not touched:
            return None
        # Thousands of indices a block: what stands for them is short.
        digest = hashlib.sha256()
        for name in touched:
            digest.update(repr((name, kept.kept.get(name), cuts.get(name))).encode())
            if name in kept.biases:
                digest.update(kept.biases[name].detach().float().cpu().numpy().tobytes())
        key = digest.digest()
        biased = kept.biases.keys() & set(touched)
        gone = leaves and not biased and all(kept.kept.get(part.name) == () for part in parts)
        corrected = {part.name: (*cuts[part.name], Narrowed.of(part, kept)) for part in parts if part.name in cuts}
        if gone:
            self._known[key] = SKIP
        elif self._corrections is None or not corrected:
            self._known[key] = inside(partial(reduced, self._decoder, kept, parts))
        else:
            found = {name: partial(self._corrections.at, *one) for name, one in corrected.items()}
            self._known[key] = _correct(self._decoder, kept, parts, found)
        return key


def _correct(
    decoder: Decoder, kept: KeptParts, parts: Sequence[Parts], corrections: Mapping[str, Callable[[], Corrected]]
) -> Change:
    """Through the block without some parts, with corrected projections and no bias beside those."""

    def passes(block: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
        # Outside, where the block is as it was.
        found = {name: one for name, solve in corrections.items() if (one := solve()).projection is not None}
        for one in found.values():
            block = partial(one.run, block)
        others = replace(kept, biases={name: bias for name, bias in kept.biases.items() if name not in found})
        with reduced(decoder, others, parts):
            return block(states)

    return Change(passes)


def _known_change(known: Mapping[Hashable, Change], prefix: Prefix) -> Change:
    return RUN if prefix[-1] is None else known[prefix[-1]]


class ReducedEvaluator:
    """Measures KL between a dense model and itself with some parts of its modules removed, on fixed windows.

    What is removed is not computed, so a candidate costs about what its checkpoint would. The result is that of a plain
    forward of the model with the output projections' columns zeroed and the biases added, to numerical noise.

    Args:
        decoder: The dense model, on the device to use; as it was after every call.
        windows: ``m x L`` token ids.
        direction: ``forward`` for KL(dense‖pruned), ``reverse`` for KL(pruned‖dense).
        corrections: What modules that lose parts are corrected with, by halves; None corrects nothing.
        batch_windows: Windows that pass a block together.
        cache_bytes: Most bytes of partial models' states to keep between batches.
        positions: Positions, of the dense model and one candidate, whose logits exist at one time; at least two.

    Raises:
        UnsupportedModelError: If the model's modules cannot be split into parts.
    """

    def __init__(
        self,
        decoder: Decoder,
        windows: Tensor,
        *,
        direction: Direction = "forward",
        corrections: Corrections | None = None,
        batch_windows: int = 8,
        cache_bytes: int = 2**28,
        positions: int = 512,
    ) -> None:
        self._windows = windows
        runner = BlockRunner(decoder, windows.shape[1])
        self._corrections = corrections
        self._walk = ReducedWalk(
            runner, windows, corrections=corrections, batch_windows=batch_windows, cache_bytes=cache_bytes
        )
        self._head = DivergenceHead(runner, direction=direction, positions=positions)

    @torch.inference_mode()
    def evaluate(self, candidates: Sequence[KeptParts], report: Report = ignore) -> list[Evaluation]:
        """Measure candidates, in order; equal ones are computed once. Tells ``report`` how many are done.

        Raises:
            StrategyError: If a candidate does not fit the model.
        """
        if self._corrections is not None:
            self._corrections.prepare()
        choices = self._walk.choices(candidates)
        return evaluate_choices(self._walk.prefixes, self._head, choices, self._windows.numel(), report)
