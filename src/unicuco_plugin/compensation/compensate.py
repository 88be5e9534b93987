"""Cuts corrected front to back, each on the model as it is corrected so far, and held against text it did not see."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from unicuco_plugin.compensation.dense_states import DenseStates, run_blocks
from unicuco_plugin.compensation.methods import Compensation, Correction, Cut
from unicuco_plugin.compensation.moments import Moments
from unicuco_plugin.compensation.projection import Projection, find_projection
from unicuco_plugin.compensation.stream import check_stream, stream_factors
from unicuco_plugin.errors import EvaluationError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.models.tensors.memory import lacks_memory
from unicuco_plugin.models.tensors.storage import exchanged, read_kept, resident, write_tensor

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
    """

    tokens: int
    counts: tuple[int, int] = (0, 0)
    before: float = float("nan")
    after: float = float("nan")
    corrected: list[int] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    changes: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    gains: dict[int, float] = field(default_factory=dict)

    def fold(self, decoder: Decoder, removed: Collection[int]) -> Callable[[], None]:
        """Write the corrections into the model's weights, where these are kept.

        Args:
            decoder: The model, all its blocks there.
            removed: Those that go.

        Returns:
            A function that puts the weights back; calling it again does nothing.
        """
        before: list[tuple[nn.Module, str, Tensor]] = []

        def restore() -> None:
            while before:
                write_tensor(*before.pop())

        def write(module: nn.Module, name: str, values: Tensor) -> None:
            before.append((module, name, read_kept(module, name).clone()))
            write_tensor(module, name, values)

        try:
            with torch.no_grad():
                for name, values in self.changes.items():
                    for parameter, value in values.items():
                        write(decoder.model.get_submodule(name), parameter, value)
                for (module, parameter), factor in stream_factors(decoder, self.gains, removed):
                    write(module, parameter, read_kept(module, parameter) * factor)
        except BaseException:
            restore()
            raise
        return restore


def compensate(
    dense: DenseStates, removed: Collection[int], method: Compensation, divergences: Divergences | None = None
) -> Compensated:
    """Find the corrections of a model that loses blocks; its weights stay as they are until these are folded in.

    Args:
        dense: The model's states on calibration windows.
        removed: Indices of the blocks that go.
        method: What solves a correction.
        divergences: Measures what a correction does; one that does not lower it is left out. None believes all.

    Raises:
        UnsupportedModelError: If corrections cannot be folded into this family's weights.
        EvaluationError: If states are not finite.
    """
    with torch.no_grad():
        return _Walk(dense, removed, method, divergences).done


class _Walk:
    """States of the corrected model, taken from cut to cut."""

    def __init__(
        self, dense: DenseStates, removed: Collection[int], method: Compensation, divergences: Divergences | None
    ) -> None:
        self.runner, self.dense, self.method, self.divergences = dense.runner, dense, method, divergences
        self.removed = frozenset(removed)
        self.done = Compensated(dense.tokens, dense.counts)
        kept = self.kept = [index for index in range(len(self.runner.decoder.blocks)) if index not in self.removed]
        states = dense.at(0)
        if divergences is not None:
            dense.finals()
            self.done.before = self.done.after = self._measure(kept, states)
        if method.solve is None:
            return
        if kept[0] > 0:
            self.done.left_out[-1] = "no block comes before it"
        pairs = list(zip(kept, [*kept[1:], len(self.runner.decoder.blocks)], strict=True))
        last = max((index for index, following in pairs if following > index + 1), default=-1)
        for index, following in pairs[: kept.index(last) + 1 if last >= 0 else 0]:
            if following > index + 1:
                states = self._correct(index, states, following)
            elif states is dense.at(index):
                states = dense.at(following)
            else:
                states = run_blocks(self.runner, [index], states)

    def _measure(self, blocks: Sequence[int], states: list[Tensor]) -> float:
        """Mean divergence of what these blocks make of the states on windows held out."""
        assert self.divergences is not None  # noqa: S101 - asked by the callers
        finals = torch.cat(run_blocks(self.runner, blocks, states[: self.dense.held]))
        [values] = self.divergences(self.dense.finals(), [finals])
        return sum(values) / len(values)

    def _correct(self, index: int, entering: list[Tensor], following: int) -> list[Tensor]:
        """States behind one cut, corrected if that is better."""
        targets = self.dense.at(following)
        projection = None
        if self.method.stream:
            check_stream(self.runner, index, self.removed)
        else:
            projection = find_projection(self.runner, index, targets[0].shape[-1])
        plain, cut = self._look(index, projection, entering, targets)
        assert self.method.solve is not None  # noqa: S101 - asked by the caller
        try:
            correction = self.method.solve(cut)
            corrected, changed, measured = self._tried(index, projection, correction, entering, plain)
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
        if projection is None:
            self.done.gains[index] = correction.gain
        else:
            self.done.changes[projection.name] = changed
        return corrected

    def _tried(
        self,
        index: int,
        projection: Projection | None,
        correction: Correction,
        entering: list[Tensor],
        plain: list[Tensor],
    ) -> tuple[list[Tensor], dict[str, Tensor], float]:
        """States behind a corrected cut, new values of its projection, and the divergence; NaN where none is measured.

        Raises:
            EvaluationError: If any of them is not finite.
        """
        changed = {}
        if correction.change is not None and projection is not None:
            changed = projection.changed(correction.change)
        corrected = [batch * correction.gain for batch in plain]
        for values in (*corrected, *changed.values()):
            check_finite("the correction", [float(values.abs().max())], values.dtype)
        if changed and projection is not None:
            with resident(), exchanged(projection.module, changed):
                corrected = [self.runner.run(index, batch) for batch in entering]
        if self.divergences is None:
            return corrected, changed, float("nan")
        return corrected, changed, self._measure([block for block in self.kept if block > index], corrected)

    def _look(
        self, index: int, projection: Projection | None, entering: list[Tensor], targets: list[Tensor]
    ) -> tuple[list[Tensor], Cut]:
        """Run the block before a cut, and gather moments."""
        weight = torch.zeros(targets[0].shape[-1], 0) if projection is None else projection.weight
        moments: list[Moments] = []
        given: list[Tensor] = []
        hook = projection and projection.module.register_forward_pre_hook(lambda _, args: given.append(args[0]))
        plain = []
        try:
            with resident():
                for place, (states, target) in enumerate(zip(entering, targets, strict=True)):
                    plain.append(self.runner.run(index, states))
                    inputs = given.pop().reshape(*states.shape[:2], -1) if given else states[..., :0]
                    device = plain[-1].device  # the next kept block may be on another
                    if not moments:
                        weight = weight.to(device)
                        moments = [Moments.zeros(weight.shape[1], weight.shape[0], device) for _ in range(2)]
                    own = moments[place < self.dense.held]
                    own.add(inputs.to(device), plain[-1], target.to(device), self.method.weigh)
        finally:
            if hook:
                hook.remove()
        return plain, Cut(weight.double(), 1.0 if projection is None else projection.scale, *moments)
