"""Corrections of dropped blocks: found on the toolkit's calibration text, folded in before it calibrates."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from loguru import logger

from unicuco_plugin.compensation.compensate import Compensated, compensate
from unicuco_plugin.compensation.dense_states import DenseStates
from unicuco_plugin.compensation.parts import compensate_parts
from unicuco_plugin.errors import RecipeError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.halves import HalfRunner
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.blocks.sublayers import sublayer_names
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.models.tensors.storage import on_accelerator
from unicuco_plugin.modifiers.toolkit.ranks import wait, whole_windows
from unicuco_plugin.objectives.head import DivergenceHead
from unicuco_plugin.plugins.manager import corrects, make_compensation
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.traits import traits_of

# Windows that pass a block together at first, and what takes memory beside them.
_BATCH = 8
_LOWER = "the number of calibration windows (--samples) or the tokens of one (--seq-length), or take a narrower dtype"

__all__ = ["Folding", "check_compensation", "choose_compensation", "fold_compensation", "say_compensated"]


def choose_compensation(given: str | None, strategies: Iterable[Strategy]) -> str | None:
    """The compensation that was asked for, or the one that strategies were measured with; None without either."""
    return given or next((one.compensation for one in strategies if one.compensation), None)


def check_compensation(name: str | None, spaces: Sequence[str], levels: str | None) -> None:
    """Refuse a compensation that has nothing to correct, or whose correction would be written over.

    Raises:
        RecipeError: If no strategy is of a space whose units leave, or weights come from a level database.
    """
    if not corrects(name):
        return
    # Blocks that leave beside schemes are corrected before a quantiser rounds what stays.
    if not any(traits_of(space).removes for space in spaces):
        raise RecipeError(
            f"compensation {name} corrects what leaves, in the spaces 'depth', 'sublayer', 'structured', 'compound'; "
            f"there is none for {' and '.join(spaces)}: leave it out"
        )
    if levels is not None:
        raise RecipeError(
            f"levels holds the dense model's weights, which would replace those that compensation {name} corrects; "
            "leave one of them out"
        )


class Folding:
    """A correction of one model, from its start to its end in the toolkit's lifecycle.

    Args:
        name: Of the compensation; None corrects nothing.
        batches: The toolkit's calibration data, which it reads.

    Attributes:
        said: What came of it, in a sentence; empty where there was none.
        changed: Whether a correction was folded in.
    """

    def __init__(self, name: str | None = None, batches: Iterable[Mapping[str, Any]] | None = None) -> None:
        self._name, self._batches = name, batches
        self.said, self.changed = "", False
        self._unfold: Callable[[], None] = lambda: None

    def start(self, decoder: Decoder, units: Collection[str], *, halves: bool) -> None:
        """Correct a model that is about to lose blocks or halves; see :func:`fold_compensation`.

        Args:
            decoder: The dense model; its weights are changed.
            units: Full names of what goes.
            halves: Whether these are halves.
        """
        if self._name is None or not corrects(self._name) or not units:
            return
        names = decoder.block_names
        if halves:
            names = tuple(name for pair in zip(*sublayer_names(decoder), strict=True) for name in pair)
        removed = [place for place, name in enumerate(names) if name in units]
        self._tell(names, fold_compensation(decoder, removed, self._name, self._batches, halves=halves))

    def start_parts(self, decoder: Decoder, parts: KeptParts) -> KeptParts:
        """Correct a model that is about to lose parts of modules.

        Args:
            decoder: The dense model; its weights are changed.
            parts: What stays, and the biases for what does not.

        Returns:
            The same with the biases that the corrected model has.
        """
        if not any(parts.kept.values()) and not parts.biases:  # modules go whole, and leave nothing: cuts are all
            self.start(decoder, parts.removed, halves=True)
        elif self._name is not None and corrects(self._name):
            names = tuple(name for pair in zip(*sublayer_names(decoder), strict=True) for name in pair)
            found = fold_compensation(decoder, parts, self._name, self._batches, halves=True)
            self._tell(names, found)
            return replace(parts, biases={**parts.biases, **found[0].biases})
        return parts

    def _tell(self, names: Sequence[str], found: tuple[Compensated, Callable[[], None]]) -> None:
        assert self._name is not None  # noqa: S101 - asked by the callers
        done, self._unfold = found
        self.said, self.changed = say_compensated(self._name, done, names), bool(done.corrected)
        logger.info(f"SparsityProfileModifier: {self.said}")

    def settle(self) -> None:
        """What it kept of the weights before is not needed any more."""
        self._unfold = lambda: None

    def undo(self) -> None:
        """Put the weights back; calling it again does nothing."""
        self._unfold()


def fold_compensation(
    decoder: Decoder,
    removed: Collection[int] | KeptParts,
    name: str,
    batches: Iterable[Mapping[str, Any]] | None,
    *,
    halves: bool = False,
) -> tuple[Compensated, Callable[[], None]]:
    """Correct a model that is about to lose blocks, halves of them, or parts of halves.

    Args:
        decoder: The dense model; its weights are changed.
        removed: Indices of the blocks that will go, or places of halves; or what stays of modules.
        name: Of the compensation.
        batches: The toolkit's calibration data.
        halves: Whether these are halves.

    Returns:
        What came of it, and a function that puts the weights back.

    Raises:
        RecipeError: If there is no text.
        CalibrationError: If it is a single window.
        UnsupportedModelError: If corrections cannot be folded into this family's weights.
    """
    if batches is None:
        raise RecipeError(
            f"compensation {name} reads calibration text, got none; give oneshot a dataset, or leave it out"
        )
    windows = whole_windows(batches)

    def find(batch: int) -> Compensated:
        runner = (HalfRunner if halves else BlockRunner)(decoder, windows.shape[1])
        dense = DenseStates(runner, windows, batch=batch)
        means = make_compensation(name), DivergenceHead(runner).divergences
        if isinstance(removed, KeptParts):
            return compensate_parts(dense, removed, *means)
        return compensate(dense, removed, *means)

    with on_accelerator(decoder.model):
        done = Fitting(_BATCH, lower=_LOWER)(find, len(windows))
    return done, done.fold(decoder, () if isinstance(removed, KeptParts) else removed, wait)


def say_compensated(name: str, done: Compensated, blocks: Sequence[str]) -> str:
    """One sentence: method, places, tokens, divergence on held-out windows without and with, what was left out.

    Args:
        name: Of the compensation.
        done: What came of it.
        blocks: Names of its blocks, or halves.
    """
    cuts = len(done.corrected) + len(done.left_out)
    held, windows = done.counts
    said = f"compensation {name}, from {done.tokens:,} tokens, {held} of {windows} windows held out: "
    if done.corrected and done.modules:
        said += f"folded into {len(done.corrected)} of {cuts} modules that lose parts or come before one that goes; "
    elif done.corrected:
        places = ", ".join(blocks[index] for index in done.corrected)
        said += f"folded in before {len(done.corrected)} of {cuts} cuts, at {places}; "
    said += f"on the windows held out {done.before:.4f} nats per token without and {done.after:.4f} with it"
    for index, reason in done.left_out.items():
        where = f"the cut behind {blocks[index]}" if index >= 0 else "the cut at the beginning"
        said += f"; left out for {blocks[index] if done.modules and index >= 0 else where}: {reason}"
    return said
