"""Building a level database: block by block, linear by linear, and resumed from there after a kill."""

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.levels.executor import Workers
from unicuco_plugin.levels.experts import as_linears
from unicuco_plugin.levels.folder import alone, begin, check_output, check_room
from unicuco_plugin.levels.kinds import kind_of
from unicuco_plugin.levels.ledger import Ledger
from unicuco_plugin.levels.record import Calibration, LevelsRecord, write_record
from unicuco_plugin.levels.scheme_levels import SchemeLevels, open_levels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.levels.solver import weights_dtype
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.levels.stream import Stream
from unicuco_plugin.models.blocks.coverage import check_share, measure_coverage
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
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
    workers: Workers | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Levels | SchemeLevels:
    """Prune every linear of a model at every sparsity, or quantise it in every scheme, and store the results.

    The model is only read; experts that its family fuses are linears meanwhile, each calibrated on all tokens, as in
    llm-compressor's own passes. Blocks are streamed: besides the model, memory holds the states between two blocks, the
    Hessians of one block, and the levels of two linears: one is packed and written while the next is solved. Whatever
    is finished is on disk.

    Args:
        decoder: The dense model, on the device to use.
        windows: ``m x L`` token ids to calibrate on.
        output: The database's folder.
        name: What the model is called.
        settings: The levels and how to solve them.
        sources: Where the windows came from, for the record.
        resume: Continue an interrupted build from the linear it was in; where there is none, start one.
        overwrite: Remove an existing database, and start anew.
        workers: Processes that solve the linears, such as ``LevelWorkers``; none lets this one do it. The database is
            the same.
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
            dtype=weights_dtype(decoder),
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
                Stream(Ledger(output, record, progress), decoder, windows).run(workers)
        return open_levels(output)


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
