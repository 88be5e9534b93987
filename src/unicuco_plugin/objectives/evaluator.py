"""Divergence of many candidates without some blocks or halves of blocks, sharing what work they have in common.

Notation
    n: blocks of the dense model; m: windows; L: tokens in a window; V: vocabulary
    gone: what a block lacks, ``KEPT``, ``NO_ATTENTION``, ``NO_MLP`` or ``DROPPED``, their sum; n to a candidate
    cut: a run of dropped blocks
"""

import time
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from unicuco_plugin.compensation.corrections import Corrections
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.halves import HalfRunner
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.blocks.sublayers import silenced, sublayer_names
from unicuco_plugin.models.tensors.memory import letting_go
from unicuco_plugin.objectives.head import DivergenceHead
from unicuco_plugin.objectives.kl import Direction
from unicuco_plugin.objectives.objective import Evaluation, Report
from unicuco_plugin.objectives.prefixes import RUN, SKIP, Change, Prefix, PrefixWalk, inside
from unicuco_plugin.objectives.work import Work, ignore

__all__ = ["DROPPED", "KEPT", "NO_ATTENTION", "NO_MLP", "BlockEvaluator", "evaluate_choices", "lacking_parts"]

KEPT, NO_ATTENTION, NO_MLP, DROPPED = range(4)


def lacking_parts(decoder: Decoder, units: Collection[str]) -> list[int]:
    """What every block lacks without some sub-layers, given by full module name."""
    attentions, mlps = sublayer_names(decoder)
    return [NO_ATTENTION * (a in units) + NO_MLP * (m in units) for a, m in zip(attentions, mlps, strict=True)]


class BlockEvaluator:
    """Measures KL between a dense model and itself with blocks, or halves of blocks, removed, on fixed windows.

    Candidates share what work they have in common (see :class:`PrefixWalk`). Logits exist for few positions at a time;
    the dense ones are recomputed from the dense final state, once per batch. The result is that of a plain forward of
    the really pruned model, to numerical noise.

    Args:
        decoder: The dense model, on the device to use; never modified beyond a call.
        windows: ``m x L`` token ids.
        direction: ``forward`` for KL(dense‖pruned), ``reverse`` for KL(pruned‖dense).
        corrections: What every block before a cut is corrected with; None corrects nothing.
        batch_windows: Windows that pass a block together.
        cache_bytes: Most bytes of partial models' states to keep between batches.
        positions: Positions, of the dense model and one candidate, whose logits exist at one time; at least two.
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
        self._decoder, self._windows, self._corrections = decoder, windows, corrections
        self._runner = runner = BlockRunner(decoder, windows.shape[1])
        # Not a method: a walk that refers to its owner keeps its states until the garbage collector comes by.
        lacking = partial(_lacking, decoder, corrections)
        halves = corrections is not None and isinstance(corrections.dense.runner, HalfRunner)
        self._choices = _choices if corrections is None else partial(_cut_choices, halves=halves)
        self._walk = PrefixWalk(runner, windows, lacking, batch_windows=batch_windows, cache_bytes=cache_bytes)
        self._head = DivergenceHead(runner, direction=direction, positions=positions)

    @property
    def tokens_per_candidate(self) -> int:
        """Scored positions of one evaluation."""
        return self._windows.numel()

    def evaluate(self, candidates: Sequence[Sequence[int]]) -> list[Evaluation]:
        """Measure candidates, each given by the indices of the blocks it drops.

        Returns:
            One evaluation per candidate, in order. Equal candidates are computed once.
        """
        count = len(self._decoder.blocks)
        return self.evaluate_parts(
            [[DROPPED if index in dropped else KEPT for index in range(count)] for dropped in map(set, candidates)]
        )

    @torch.inference_mode()
    def evaluate_parts(self, candidates: Sequence[Sequence[int]], report: Report = ignore) -> list[Evaluation]:
        """Measure candidates, each given by what every block lacks; tells ``report`` how many are done.

        Returns:
            As :meth:`evaluate`.

        Raises:
            ValueError: If a candidate has not one number for every block.
            UnsupportedModelError: If half a block is to go and a block keeps it in no module of its own.
        """
        if self._corrections is not None:
            self._corrections.prepare()
        choices = [self._choices(candidate) for candidate in candidates]
        return evaluate_choices(self._walk, self._head, choices, self._windows.numel(), report)


@dataclass(frozen=True)
class _Before:
    """The choice of a block before a cut, which it is corrected for.

    Attributes:
        place: Of what stands before the cut: the block, or its half.
        following: Of what stays next, or how many places there are.
        gone: What the block lacks.
    """

    place: int
    following: int
    gone: int


def _choices(candidate: Sequence[int]) -> Prefix:
    return tuple(None if gone == KEPT else gone for gone in candidate)


def _cut_choices(candidate: Sequence[int], *, halves: bool) -> Prefix:
    """As :func:`_choices`; a block before a cut looks ahead, since its correction depends on where that ends."""
    choices: list[Hashable] = list(_choices(candidate))
    following = len(choices) * (2 if halves else 1)
    for index, gone in reversed(list(enumerate(candidate))):
        stay = [2 * index + half for half, lack in enumerate((NO_ATTENTION, NO_MLP)) if not gone & lack]
        for place in reversed(stay if halves else [index] * (gone == KEPT)):
            if following > place + 1:
                choices[index] = _Before(place, following, gone)
            following = place
    return tuple(choices)


def _lacking(decoder: Decoder, corrections: Corrections | None, prefix: Prefix) -> Change:
    """What becomes of a block that lacks nothing, one of its halves, or both, or stands before a cut."""
    choice = prefix[-1]
    gone = choice.gone if isinstance(choice, _Before) else choice
    if choice is None or gone == DROPPED:
        return RUN if choice is None else SKIP

    def changed() -> AbstractContextManager[None]:
        if gone == KEPT:
            return nullcontext()
        attentions, mlps = sublayer_names(decoder)
        return silenced(decoder, [(attentions if gone == NO_ATTENTION else mlps)[len(prefix) - 1]])

    if corrections is None or not isinstance(choice, _Before):
        return inside(changed)
    correction = partial(corrections.at, choice.place, choice.following)  # outside, where the block is as it was

    def passes(block: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
        found = correction()
        with changed():
            return found.run(block, states)

    return Change(passes)


def evaluate_choices(
    walk: PrefixWalk,
    head: DivergenceHead,
    candidates: Sequence[Prefix],
    tokens: int,
    report: Report = ignore,
) -> list[Evaluation]:
    """Measure candidates given by a choice for each block, in order; equal ones are computed once.

    Args:
        walk: From choices to final states.
        head: From final states to divergence.
        candidates: As ``walk`` takes them.
        tokens: Evaluation tokens of one candidate.
        report: Called with how many candidates are done.

    Raises:
        ValueError: If a candidate has not one choice for every block.
    """
    started = time.perf_counter()
    distinct = list(dict.fromkeys(candidates))
    changed = sum(any(choice is not None for choice in candidate) for candidate in distinct)
    work = Work(report, len(candidates), walk.count(distinct) + changed * head.blocks)
    with letting_go(walk.shed):
        finals = walk.finals(distinct, work.add)
        values = dict(zip(distinct, head.divergences(walk.dense, finals, work.add), strict=True))
    seconds = (time.perf_counter() - started) / max(len(candidates), 1)
    return [Evaluation(sum(values[c]) / len(values[c]), values[c], tokens, seconds) for c in candidates]
