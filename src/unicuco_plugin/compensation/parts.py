"""Corrections of one model that loses parts of its modules, held together against text that they did not see.

Every module that becomes narrower has its output projection solved anew for the inputs that are left, so that it gives
what the dense module gave; where the next modules go whole, it takes over what these gave, too. A sequential method
does so on what the model makes of the text once it is corrected so far, and takes up what earlier modules left.
"""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from unicuco_plugin.compensation.compensate import Compensated, Divergences
from unicuco_plugin.compensation.corrected import Corrected
from unicuco_plugin.compensation.corrections import Corrections
from unicuco_plugin.compensation.dense_states import DenseStates, run_blocks
from unicuco_plugin.compensation.methods import Compensation
from unicuco_plugin.compensation.narrowed import Narrowed
from unicuco_plugin.compensation.observed import Between
from unicuco_plugin.errors import EvaluationError
from unicuco_plugin.models.blocks.halves import step_names
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts, spread
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.models.tensors.memory import lacks_memory
from unicuco_plugin.models.tensors.storage import read_kept, resident

__all__ = ["compensate_parts"]

# Every measurement is a forward pass on the windows held out.
_GROUPS = 4


def compensate_parts(
    dense: DenseStates, parts: KeptParts, method: Compensation, divergences: Divergences | None = None
) -> Compensated:
    """Find the corrections of a model that loses parts of its modules; weights stay as they were.

    Args:
        dense: The model's states on calibration windows, by a runner of halves.
        parts: What stays, and the biases for what does not.
        method: What solves a correction.
        divergences: Measures what corrections do on windows held out, a quarter of the model after the other. Those of
            a quarter are taken together where that is lower than without; where it is not, each half of them is asked
            in the same way, down to one. None believes all.

    Returns:
        What came of it; ``biases`` are to take the place of those of ``parts``.

    Raises:
        UnsupportedModelError: If corrections cannot be folded into this family's weights, or need biases where there
            is no room for any.
        EvaluationError: If states are not finite.
    """
    with torch.no_grad():
        return _Trial(dense, parts, Corrections(dense, "", method), divergences, biased=method.biased).done


class _Trial:
    """Corrections that are solved, and those of them that were found to be better."""

    def __init__(
        self,
        dense: DenseStates,
        parts: KeptParts,
        corrections: Corrections,
        divergences: Divergences | None,
        *,
        biased: bool,
    ) -> None:
        self.dense, self.corrections, self.divergences, self.biased = dense, corrections, divergences, biased
        self.done = Compensated(dense.tokens, dense.counts, modules=True)
        names, known = step_names(dense.runner), find_parts(dense.runner.decoder)
        self.modules = [known.get(name) for name in names]
        # What goes whole and leaves a bias stands where it stood, and is not corrected.
        gone = {place for place, name in enumerate(names) if parts.kept.get(name) == ()}
        kept = self.kept = [i for i, name in enumerate(names) if i not in gone or name in parts.biases]
        self.left: list[Narrowed | None] = [None if part is None else Narrowed.of(part, parts) for part in self.modules]
        self.found: dict[int, Corrected] = {}
        # Where the walk is: the states that enter a module, held out or all, and the dense model's there.
        states = self.dense_here = dense.at(0) if corrections.sequential else dense.at(0)[: dense.held]
        if divergences is not None:
            dense.finals()
            self.done.before = self.done.after = self._measure(states, 0, ())
        if not corrections.corrects:
            return
        if kept[0] > 0:
            self.done.left_out[-1] = "no module comes before it"
        self.following = dict(zip(kept, [*kept[1:], len(names)], strict=True))
        touched = [i for i in kept if i not in gone and (self.left[i] or self.following[i] > i + 1)]
        corrections.check(touched, (), room=bool(parts.biases))
        if not corrections.sequential:
            touched = [place for place in touched if self._find(place)]
        begin, size = 0, max(-(-len(touched) // _GROUPS), 1)
        for group in (touched[first : first + size] for first in range(0, len(touched), size)):
            states = self._walk(states, range(begin, group[0]), self.done.corrected)
            if corrections.sequential:
                self.dense_here = run_blocks(dense.runner, range(begin, group[0]), self.dense_here)
            begin = group[0]
            self._settle(states, begin, group)
        for place in self.done.corrected:
            self._fold(place)

    def _find(self, place: int, around: Between | None = None) -> bool:
        """Solve a module's correction; whether there is one."""
        one = self.found[place] = self.corrections.at(place, self.following[place], self.left[place], around)
        exists = one.finite and one.projection is not None
        if exists:
            self.done.left_out.pop(place, None)
        elif not self.biased:
            self.done.left_out[place] = f"it is not finite in {self.dense.runner.decoder.model.dtype}"
        return exists

    def _settle(self, states: list[Tensor], begin: int, places: list[int], *, solved: bool = False) -> None:
        """Take these corrections beside those that are taken already, or halves of them, if that is better.

        ``solved`` says that a sequential method has solved them behind those that are taken, and not behind others.
        """
        if self.corrections.sequential and not solved:
            places = self._find_here(states, begin, places)
        if self.divergences is None:
            self.done.corrected += places
            return
        if not places:
            return
        try:
            measured = self._measure(states, begin, {*self.done.corrected, *places})
        except EvaluationError as error:
            if lacks_memory(error):
                raise
            measured = float("nan")
        if measured < self.done.after:
            self.done.after = measured
            self.done.corrected = sorted({*self.done.corrected, *places})
        elif len(places) == 1:
            self.done.left_out[places[0]] = f"{measured:.4f} instead of {self.done.after:.4f} nats per token with it"
        else:
            first, second = places[: len(places) // 2], places[len(places) // 2 :]
            self._settle(states, begin, first, solved=True)
            self._settle(states, begin, second, solved={*first} <= {*self.done.corrected})

    def _find_here(self, states: list[Tensor], begin: int, places: list[int]) -> list[int]:
        """Solve corrections one behind the other, each on what those before it make of the text; those there are."""
        found: list[int] = []
        dense, reached = self.dense_here, begin
        for place in (place for place in self.kept if begin <= place <= places[-1]):
            if place in places:
                dense = run_blocks(self.dense.runner, range(reached, self.following[place]), dense)
                reached = self.following[place]
                if self._find(place, (states, dense)):
                    found.append(place)
            if place < places[-1]:
                states = self._walk(states, range(place, place + 1), {*self.done.corrected, *found})
        return found

    def _walk(self, states: list[Tensor], places: range, corrected: Collection[int]) -> list[Tensor]:
        """States behind some modules, corrected or not."""
        for place in sorted({*self.kept} & {*places}):
            with resident():
                states = [self._pass(place, batch, corrected=place in corrected) for batch in states]
        return states

    def _measure(self, states: Sequence[Tensor], begin: int, corrected: Collection[int]) -> float:
        """Mean divergence of the model with some of the corrections, from states that enter a module."""
        assert self.divergences is not None  # noqa: S101 - asked by the callers
        held = list(states[: self.dense.held])
        finals = torch.cat(self._walk(held, range(begin, len(self.modules)), corrected))
        check_finite("the pruned model", finals, finals.dtype)
        [values] = self.divergences(self.dense.finals(), [finals])
        return sum(values) / len(values)

    def _pass(self, place: int, states: Tensor, *, corrected: bool) -> Tensor:
        """States that leave a module of which some parts went."""
        runner, left = self.dense.runner, self.left[place]
        with nullcontext() if left is None else left.taken_out(runner.decoder, biased=not corrected):
            run = partial(runner.run, place)
            return self.found[place].run(run, states) if corrected else run(states)

    def _fold(self, place: int) -> None:
        """Say which parameters of the dense model get other values, and which bias is another."""
        one, left = self.found[place], self.left[place]
        assert one.projection is not None  # noqa: S101 - of those that were found
        module, values = one.projection.module, dict(one.values)
        if left is not None:
            weight = read_kept(module, "weight").cpu().clone()
            weight[:, spread(left.kept, left.part.width)] = values["weight"]
            values["weight"] = weight
            if left.bias is not None:
                total = values.pop("bias")
                own = read_kept(module, "bias").to(total) if module.bias is not None else torch.zeros_like(total)
                self.done.biases[left.part.name] = total - own
        self.done.changes[one.projection.name] = values
