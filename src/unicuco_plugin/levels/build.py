"""Building a level database: block by block, linear by linear, and resumed from there after a kill."""

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.levels.experts import as_linears
from unicuco_plugin.levels.folder import alone, begin, check_output, check_room
from unicuco_plugin.levels.gather import gather_hessians, mean_states
from unicuco_plugin.levels.kinds import kind_of
from unicuco_plugin.levels.record import Calibration, LevelsRecord, LinearEntry, write_record
from unicuco_plugin.levels.scheme_levels import SchemeLevels, open_levels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.levels.sweep import Factor, factor_hessian
from unicuco_plugin.models.blocks.coverage import check_share, measure_coverage
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.models.tensors.storage import resident
from unicuco_plugin.progress import Progress
from unicuco_plugin.strategy import ModelReference
from unicuco_plugin.texts.calibration import calibration_hash

__all__ = ["build_levels"]

_PACKAGES = ("unicuco-plugin", "torch", "transformers", "llmcompressor", "compressed-tensors")


def build_levels(
    decoder: Decoder,
    windows: Tensor,
    output: Path,
    *,
    name: str,
    settings: LevelSettings | None = None,
    sources: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Levels | SchemeLevels:
    """Prune every linear of a model at every sparsity, or quantise it in every scheme, and store the results.

    The model is only read; experts that its family fuses are linears meanwhile, each calibrated on all tokens, as in
    llm-compressor's own passes. Blocks are streamed: besides the model, memory holds the states between two blocks, the
    Hessians of one block, and the levels of one linear. Whatever is finished is on disk.

    Args:
        decoder: The dense model, on the device to use.
        windows: ``m x L`` token ids to calibrate on.
        output: The database's folder.
        name: What the model is called.
        settings: The levels and how to solve them.
        sources: Where the windows came from, for the record.
        resume: Continue an interrupted build from the linear it was in; where there is none, start one.
        overwrite: Remove an existing database, and start anew.
        progress: Called before and after every linear.

    Returns:
        The database, opened.

    Raises:
        LevelsError: If ``output`` holds a database and neither flag is given, or one with other arguments; if another
            process builds there; if the disk has too little room; or if a scheme's own group does not divide the inputs
            of a linear.
        UnsupportedModelError: If most weights of the blocks are not in linears, or experts cannot be made into linears.
        CalibrationError: If no token reached linears that hold more than a few of a block's weights.
        EvaluationError: If states or a Hessian are not finite, or memory has no room for one window, or one linear.
    """
    settings = settings or LevelSettings()
    with as_linears(decoder.model):
        shapes = _prunable(decoder)
        unfit = kind_of(settings).check(shapes)
        shapes = {linear: shape for linear, shape in shapes.items() if linear not in unfit}
        check_output(output, resume=resume, overwrite=overwrite)
        model = decoder.model
        wanted = LevelsRecord(
            model=ModelReference(name=name, fingerprint=str(fingerprint(model))),
            dtype=str(_dtype(decoder)).removeprefix("torch."),
            device=model.device.type,
            settings=settings,
            calibration=Calibration(
                sources=tuple(sources),
                hash=calibration_hash(windows),
                windows=windows.shape[0],
                length=windows.shape[1],
            ),
            expected=tuple(shapes),
            versions={package: importlib.metadata.version(package) for package in _PACKAGES},
        )
        if not output.exists():  # nothing is made where there is no room
            check_room(output, shapes, settings, wanted.dtype)
        output.mkdir(parents=True, exist_ok=True)
        with alone(output):

            def tell(text: str) -> None:
                progress(Progress("checking files", 0, len(shapes), message=text))

            for linear, reason in unfit.items():
                tell(f"{linear} has {reason}, so it stays dense and has no levels")
            if overwrite:  # before the old database goes
                check_room(output, shapes, settings, wanted.dtype, overwrite=True)
            record = begin(output, wanted, resume=resume, tell=tell)
            wanting = set(record.expected) - record.linears.keys()
            left = {linear: shape for linear, shape in shapes.items() if linear in wanting}
            need = check_room(output, left, settings, wanted.dtype)
            if left:
                tell(
                    f"{len(left)} linears to solve, at most {need / 1e6:,.1f} MB on disk; linears have "
                    f"{measure_coverage(decoder).share:.1%} of the weights of the blocks"
                )
            write_record(output, record)
            if left:
                _Build(output, record, decoder, progress).run(windows)
        return open_levels(output)


class _Build:
    """A build under way; its record is on disk whenever it has grown."""

    def __init__(
        self, folder: Path, record: LevelsRecord, decoder: Decoder, progress: Callable[[Progress], None]
    ) -> None:
        self.folder = folder
        self.record = record
        self.decoder = decoder
        self.progress = progress
        self.settings = record.settings
        self.kind = kind_of(record.settings)
        self.mark = time.perf_counter()
        self.fitting = Fitting(record.settings.batch_windows, say=lambda text: self.tell("calibrating", text))
        self.alone = Fitting(1, ("linear", "linears are solved"), "the number of levels, or build on the CPU")

    def run(self, windows: Tensor) -> None:
        """Stream the states of all windows through the blocks, up to the last that has something to do."""
        runner = BlockRunner(self.decoder, windows.shape[1])
        states = self.fitting(lambda size: torch.cat([runner.embed(part) for part in windows.split(size)]))
        last = max(index for index in range(len(self.decoder.blocks)) if self.left(index))
        for index in range(last + 1):
            with resident():  # nothing but this block is run
                leaving = self.solve(runner, index, states) if self.left(index) else None
                if index == last:
                    return
                if self.settings.inputs == "dense" and leaving is not None:
                    states = leaving
                else:
                    states = self.fitting(partial(self.carry, runner, index, states))

    def carry(self, runner: BlockRunner, index: int, states: Tensor, size: int) -> Tensor:
        """The states that leave a block, of so many windows at a time, as the settings want them."""
        if self.settings.inputs == "dense":
            return torch.cat([runner.run(index, part) for part in states.split(size)])
        self.tell(f"carrying {self.decoder.block_names[index]}")
        weights = self.weights_of(index)
        return mean_states(runner, index, states, self.kind.shares, weights, batch_windows=size)

    def left(self, index: int) -> list[str]:
        """The linears of a block that are not yet stored."""
        wanted = set(self.record.expected) - self.record.linears.keys()
        return [name for name in self.decoder.linears(index) if name in wanted]

    def solve(self, runner: BlockRunner, index: int, states: Tensor) -> Tensor:
        """Solve and store what is left of a block; returns the states that leave it dense."""
        self.tell(f"calibrating {self.decoder.block_names[index]}")
        hessians, leaving = self.fitting(partial(gather_hessians, runner, index, states))
        linears = self.decoder.linears(index)
        self.leave_out([name for name in self.left(index) if name not in hessians.leaders])
        left = set(self.left(index))
        for group in hessians.groups():
            names = [name for name in group if name in left]
            H, _ = hessians.sums.pop(group[0])
            if not names:
                continue
            self.tell(f"factoring {names[0]}")
            factor = self.alone(partial(self.factor, H))
            del H
            for name in names:
                self.tell(f"solving {name}")
                weights = {other: linears[other].weight.detach() for other in group}
                entry = self.alone(partial(self.make, name, weights, factor))
                now = time.perf_counter()
                seconds = round(self.record.seconds + now - self.mark, 3)
                self.mark = now
                grown = self.record.linears | {name: entry}
                self.record = self.record.model_copy(update={"linears": grown, "seconds": seconds})
                write_record(self.folder, self.record)
                why = f"its Hessian cannot be inverted, so it is {self.kind.fallback}; give more windows"
                self.tell(f"solved {name}", "" if factor.invertible else f"{name}: {why}")
        return leaving

    def factor(self, H: Tensor, _: int = 1) -> Factor:
        """Factor a Hessian as the settings say."""
        return factor_hessian(H, self.settings.damping, largest_first=self.settings.actorder == "static")

    def make(self, name: str, weights: Mapping[str, Tensor], factor: Factor, _: int = 1) -> LinearEntry:
        """Solve and store a linear."""
        return self.kind.make(self.folder, name, weights, factor)

    def leave_out(self, unreached: Sequence[str]) -> None:
        """Take linears that no token reached out of the database: they stay dense."""
        if unreached:
            expected = tuple(name for name in self.record.expected if name not in unreached)
            self.record = self.record.model_copy(update={"expected": expected})
            write_record(self.folder, self.record)
            for name in unreached:
                self.tell(f"calibrated {name}", f"{name}: no token reached it, so it stays dense and has no levels")

    def weights_of(self, index: int) -> Callable[[int], Mapping[str, Tensor]]:
        """The weights of a stored block at a level, for :func:`mean_states`."""
        stored = {
            name: (self.folder / entry.file, entry, linear.weight)
            for name, linear in self.decoder.linears(index).items()
            if (entry := self.record.linears.get(name))
        }

        def at(level: int) -> dict[str, Tensor]:
            found = {name: self.kind.read(path, entry, level, like) for name, (path, entry, like) in stored.items()}
            return {name: weight for name, weight in found.items() if weight is not None}

        return at

    def tell(self, stage: str, message: str = "") -> None:
        """Report progress."""
        total = len(self.record.expected)
        self.progress(Progress(stage, len(self.record.linears), total, message=message))


def _prunable(decoder: Decoder) -> dict[str, tuple[int, int]]:
    """Shapes of all linears in the blocks; refuses blocks that have none."""
    label = type(decoder.model).__name__
    check_share(decoder)
    shapes: dict[str, tuple[int, int]] = {}
    for index in range(len(decoder.blocks)):
        linears = decoder.linears(index)
        if not linears:
            raise UnsupportedModelError(f"{label}: {decoder.block_names[index]} has no linear layers to prune")
        shapes |= {name: (linear.out_features, linear.in_features) for name, linear in linears.items()}
    return shapes


def _dtype(decoder: Decoder) -> torch.dtype:
    first = next(iter(decoder.linears(0).values()))
    return first.weight.dtype
