"""Corrections of all cuts of one model, front to back, each held against text that it did not see."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from unicuco_plugin.compensation.corrections import Corrections
from unicuco_plugin.compensation.dense_states import DenseStates, run_blocks
from unicuco_plugin.compensation.methods import Compensation
from unicuco_plugin.compensation.stream import stream_factors
from unicuco_plugin.errors import EvaluationError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.halves import step_names
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.models.tensors.memory import lacks_memory
from unicuco_plugin.models.tensors.storage import read_kept, resident, write_tensor

__all__ = ["Compensated", "Divergences", "compensate"]

Divergences: TypeAlias = Callable[[Tensor, Sequence[Tensor]], list[tuple[float, ...]]]
"""Final states of the dense model and of others, ``m x L x d``, to nats per token of each window."""


@dataclass
class Compensated:
    """What came of it.

    Attributes:
        tokens: Of the windows, those held out included.
        counts: Windows held out, and all of them.
        before: Mean divergence of the cuts alone on windows held out, nats per token; NaN where it was not measured.
        after: The same with the corrections.
        corrected: Blocks before a cut that carry a correction.
        left_out: The others, with the reason; -1 for a cut with no block before it.
        changes: New values of projections, by name.
        gains: Factors of the states behind blocks.
        biases: What modules that lose parts get beside, by name, in the place of what they would have got.
        modules: Whether modules that lose parts were corrected, too, and not cuts alone.
    """

    tokens: int
    counts: tuple[int, int] = (0, 0)
    before: float = float("nan")
    after: float = float("nan")
    corrected: list[int] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    changes: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    gains: dict[int, float] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)
    modules: bool = False

    def fold(
        self, decoder: Decoder, removed: Collection[int], wait: Callable[[], None] = lambda: None
    ) -> Callable[[], None]:
        """Write the corrections into the model's weights, where these are kept.

        Args:
            decoder: The model, all its blocks there.
            removed: Those that go.
            wait: Called when all is read, and when all is written: ranks may share the weights, and write the same.

        Returns:
            A function that puts the weights back; calling it again does nothing.
        """
        before: list[tuple[nn.Module, str, Tensor]] = []

        def restore() -> None:
            while before:
                write_tensor(*before.pop())

        with torch.no_grad():
            values = {
                (decoder.model.get_submodule(name), parameter): value
                for name, changed in self.changes.items()
                for parameter, value in changed.items()
            }
            for (module, parameter), factor in stream_factors(decoder, self.gains, removed):
                own = values.get((module, parameter))
                values[module, parameter] = (read_kept(module, parameter) if own is None else own) * factor
            before += [(module, parameter, read_kept(module, parameter).clone()) for module, parameter in values]
            wait()
            try:
                for (module, parameter), value in values.items():
                    write_tensor(module, parameter, value)
            except BaseException:
                restore()
                raise
            wait()
        return restore


def compensate(
    dense: DenseStates, removed: Collection[int], method: Compensation, divergences: Divergences | None = None
) -> Compensated:
    """Find the corrections of a model that loses blocks or halves; weights stay as they were until these are folded.

    Args:
        dense: The model's states on calibration windows.
        removed: Places of what goes, as the runner counts: blocks, or halves.
        method: What solves a correction.
        divergences: Measures what a correction does on windows held out, with all cuts before it as they were decided
            and all behind it as they are; one that does not lower it is left out. None believes all.

    Raises:
        UnsupportedModelError: If corrections cannot be folded into this family's weights.
        EvaluationError: If states are not finite.
    """
    with torch.no_grad():
        return _Walk(dense, frozenset(removed), Corrections(dense, "", method), divergences).done


class _Walk:
    """States of the corrected model taken from cut to cut: on windows held out, or on all for a sequential method."""

    def __init__(
        self,
        dense: DenseStates,
        removed: frozenset[int],
        corrections: Corrections,
        divergences: Divergences | None,
    ) -> None:
        self.dense, self.corrections, self.divergences = dense, corrections, divergences
        self.done = Compensated(dense.tokens, dense.counts)
        count = len(step_names(dense.runner))
        kept = self.kept = [index for index in range(count) if index not in removed]
        if divergences is not None:
            dense.finals()
            self.done.before = self.done.after = self._measure(kept, dense.at(0)[: dense.held])
        if not corrections.corrects:
            return
        if kept[0] > 0:
            self.done.left_out[-1] = "no block comes before it"
        pairs = list(zip(kept, [*kept[1:], count], strict=True))
        cuts = [place for place, (index, following) in enumerate(pairs) if following > index + 1]
        if cuts:
            corrections.check([pairs[place][0] for place in cuts], removed)
            states = dense.at(pairs[cuts[0]][0])[: None if corrections.sequential else dense.held]
            for index, following in pairs[cuts[0] : cuts[-1] + 1]:
                if following > index + 1:
                    states = self._correct(index, states, following)
                else:
                    states = run_blocks(dense.runner, [index], states)

    def _measure(self, blocks: Sequence[int], states: list[Tensor]) -> float:
        """Mean divergence of what these blocks make of the states."""
        assert self.divergences is not None  # noqa: S101 - asked by the callers
        finals = torch.cat(run_blocks(self.dense.runner, blocks, states))
        [values] = self.divergences(self.dense.finals(), [finals])
        return sum(values) / len(values)

    def _correct(self, index: int, entering: list[Tensor], following: int) -> list[Tensor]:
        """States behind one cut, corrected if that is better."""
        dense, runner = self.dense, self.dense.runner
        around = (entering, dense.at(following)) if self.corrections.sequential else None
        found = self.corrections.at(index, following, around=around)
        plain = run_blocks(runner, [index], entering)
        measured = float("nan")
        try:
            if not found.finite:
                raise EvaluationError("the correction is not finite")
            with resident():
                corrected = [found.run(partial(runner.run, index), batch) for batch in entering]
            for values in corrected:
                check_finite("the correction", values, values.dtype)
            if self.divergences is not None:
                rest = [block for block in self.kept if block > index]
                measured = self._measure(rest, corrected[: dense.held])
        except EvaluationError as error:
            if lacks_memory(error):
                raise
            self.done.left_out[index] = f"it is not finite in {plain[0].dtype}"
            return plain
        if self.divergences is not None and not measured < self.done.after:
            self.done.left_out[index] = f"{measured:.4f} instead of {self.done.after:.4f} nats per token with it"
            return plain
        self.done.after = measured
        self.done.corrected.append(index)
        if found.projection is None:
            self.done.gains[index] = found.gain
        else:
            self.done.changes[found.projection.name] = dict(found.values)
        return corrected
