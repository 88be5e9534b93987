"""What a run is about: a space over one model, what its units weigh, and what is known before the first strategy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from unicuco_plugin.errors import LevelsError, StrategyError, UnsupportedModelError
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.levels.experts import split_experts
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.coverage import measure_coverage
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.needed import needed_blocks
from unicuco_plugin.models.blocks.sizes import ModelSizes, measure_sizes
from unicuco_plugin.models.blocks.sublayers import check_silence, sublayer_params
from unicuco_plugin.models.parts.cuts import check_cuts
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.plugins.manager import make_ranking, make_space
from unicuco_plugin.policy.prior import Prior
from unicuco_plugin.profile_record import SizeTable
from unicuco_plugin.scores.ranked_parts import RankedParts, rank_parts
from unicuco_plugin.search.groups import Groups
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.spaces.sparsity import BOUNDS
from unicuco_plugin.spaces.structured import ROUND_TO, StructuredSpace
from unicuco_plugin.spaces.sublayer import SublayerSpace
from unicuco_plugin.spaces.units import GRANULARITIES, Granularity, group_linears, select_bounds
from unicuco_plugin.training.block_groups import group_blocks
from unicuco_plugin.training.interactions import interaction_starts
from unicuco_plugin.training.part_sizes import measure_parts
from unicuco_plugin.training.structure import structural_starts

__all__ = ["Start", "Subject", "Units", "check_units", "find_subject"]


@dataclass(frozen=True)
class Units:
    """What the units of ``sparsity`` (the first four) and ``structured`` (the others) are.

    Attributes:
        levels: Folder of the level database.
        granularity: ``block``, ``sublayer`` or ``linear``.
        ignore: Units or linears that stay dense.
        bounds: Least and largest share, by pattern of unit names.
        ranking: Which head groups and neurons of a module go first, by plugin name.
        compensate: Whether biases stand for what removed parts gave on average.
        round_to: Neurons that go together.
    """

    levels: Path | None = None
    granularity: Granularity = "linear"
    ignore: tuple[str, ...] = ()
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ranking: str = "flap"
    compensate: bool = True
    round_to: int = ROUND_TO


@dataclass(frozen=True)
class Start:
    """What a run knows before its first strategy.

    Attributes:
        first: Strategies to measure first, ``n x d``; None leaves them to the space.
        prior: What the surrogate's mean follows.
        tokens: Evaluation tokens this took.
    """

    first: Tensor | None = None
    prior: Prior | None = None
    tokens: int = 0


@dataclass(frozen=True)
class Subject:
    """A space over one model.

    Attributes:
        space: Of the strategies.
        sizes: What its units weigh.
        header: What determines the run beside its settings, plain JSON data.
        levels: The level database that candidates are stitched from, if they are.
        rank: Ranks the parts of modules, from windows of their own, where strategies need it.
        start: Finds out what is known beforehand, from the ranking windows and ranked parts; its work is journaled.
        groups: Of units that may go together; they are searched first.
        coverage: Share of the weights of all blocks that the units cover, where they are of linears.
    """

    space: Space
    sizes: SizeTable
    header: dict[str, Any] = field(default_factory=dict)
    levels: Levels | None = None
    rank: Callable[[Tensor], RankedParts] | None = None
    start: Callable[[Journal, Tensor, RankedParts | None], Start] = lambda _journal, _windows, _ranked: Start()
    groups: Groups | None = None
    coverage: float = 1.0


# Fields of the space 'sparsity' alone.
_SPARSITY = ("levels", "granularity", "ignore", "bounds")


def check_units(name: str, units: Units) -> None:
    """Refuse a space and units that contradict each other; needs no model.

    Raises:
        LevelsError: If a level database is missing or not needed, or the granularity is none.
        StrategyError: If a ranking, compensation or rounding is given for another space, or no neuron may go.
    """
    if units.round_to < 1:
        raise StrategyError(f"round_to must be at least 1 neuron, got {units.round_to}")
    parts = Units(ranking=units.ranking, compensate=units.compensate, round_to=units.round_to)
    if name != "structured" and parts != Units():
        raise StrategyError(f"ranking, compensate and round_to go with the space 'structured', not with {name!r}")
    if name != "sparsity" and units != parts:
        defaults = Units()
        given = [field for field in _SPARSITY if getattr(units, field) != getattr(defaults, field)]
        raise LevelsError(
            f"{' and '.join(given)} go{'es' if len(given) == 1 else ''} with the space 'sparsity', not with {name!r}"
        )
    if name == "sparsity" and units.levels is None:
        raise LevelsError("the space 'sparsity' needs a level database: unicuco levels build, then --levels DIR")
    if units.granularity not in GRANULARITIES:
        raise LevelsError(f"granularity must be one of {', '.join(GRANULARITIES)}, got {units.granularity!r}")


def find_subject(name: str, decoder: Decoder, fingerprint: str, units: Units) -> Subject:
    """Build the subject of a space.

    Args:
        name: The space's.
        decoder: The dense model.
        fingerprint: Of the model, which a level database must have been built from.
        units: For the spaces ``sparsity`` and ``structured``.

    Raises:
        UnsupportedModelError: If the model's blocks do not suit the space.
        LevelsError: If a level database is missing, not needed, or unfinished.
        ModelMismatchError: If it was built from another model.
        StrategyError: If units are ignored or bounded that do not exist.
        UnknownNameError: If no plugin provides the space.
    """
    check_units(name, units)
    if units.levels is not None:
        return _sparsity(decoder, fingerprint, units, units.levels)
    if name == "sublayer":
        return _sublayer(decoder)
    if name == "structured":
        return _structured(decoder, units)
    sizes = measure_sizes(decoder)
    label = type(decoder.model).__name__
    if len(sizes.block_params) < 2:
        raise UnsupportedModelError(f"{label}: a profile needs two or more blocks, got {len(sizes.block_params)}")
    space = make_space(name, decoder.block_names, sizes.block_params, needed=needed_blocks(decoder))
    return Subject(space, _table(sizes, sizes.block_params, sizes.block_bytes))


def _sublayer(decoder: Decoder) -> Subject:
    sizes, params = measure_sizes(decoder), sublayer_params(decoder)
    check_silence(decoder)
    # Halves are listed pair after pair; a block leaves when both go.
    needed = tuple(tuple(2 * block + half for block in group for half in range(2)) for group in needed_blocks(decoder))
    space = make_space("sublayer", tuple(params), tuple(params.values()), needed=needed)
    # What only half a block lacks is zeroed and stays in the files.
    table = _table(sizes, tuple(params.values()), (0,) * len(params))
    groups = group_blocks(space) if isinstance(space, SublayerSpace) else None  # a plugin may have its own
    pairs = zip(sizes.block_params, sizes.block_bytes, strict=True)
    table = table.model_copy(update={"blocks": dict(zip(decoder.block_names, pairs, strict=True))})
    return Subject(space, table, groups=groups)


def _structured(decoder: Decoder, units: Units) -> Subject:
    ranking = make_ranking(units.ranking)
    check_cuts(decoder)
    table = measure_parts(decoder, round_to=units.round_to, compensate=units.compensate)
    space = make_space("structured", tuple(find_parts(decoder)), table.unit_params, parts=table.parts)
    header = {"ranking": units.ranking, "compensate": units.compensate, "round_to": units.round_to}

    def rank(windows: Tensor) -> RankedParts:
        return rank_parts(decoder, windows, ranking, compensate=units.compensate)

    def start(journal: Journal, windows: Tensor, ranked: RankedParts | None) -> Start:
        if ranked is None or not isinstance(space, StructuredSpace):  # a plugin may have its own
            return Start()
        first, prior, tokens = interaction_starts(decoder, space, windows, ranked, journal)
        return Start(first, prior, tokens + ranked.tokens)

    return Subject(space, table, header, None, rank, start)


def _sparsity(decoder: Decoder, fingerprint: str, units: Units, folder: Path) -> Subject:
    levels = Levels.open(folder)
    levels.check_model(fingerprint)
    levels.verify()
    split_experts(decoder.model)
    weights = group_linears(levels.sizes, units.granularity, units.ignore)
    top = levels.sparsities[-1]
    bounds = select_bounds(tuple(weights), (BOUNDS[0], min(BOUNDS[1], top)), units.bounds)
    space = make_space("sparsity", tuple(weights), tuple(weights.values()), bounds)
    header = {
        "levels": [levels.record.calibration.hash, levels.record.settings.model_dump(mode="json")],
        "granularity": units.granularity,
        "ignore": list(units.ignore),
        "bounds": [list(pair) for pair in bounds],
    }

    def start(journal: Journal, windows: Tensor, _ranked: RankedParts | None) -> Start:
        return Start(*structural_starts(decoder, levels, space, windows, journal))

    table = _table(measure_sizes(decoder), tuple(weights.values()), (0,) * len(weights))
    coverage = sum(weights.values()) / measure_coverage(decoder).blocks
    return Subject(space, table, header, levels, None, start, coverage=coverage)


def _table(sizes: ModelSizes, params: Sequence[int], size: Sequence[int]) -> SizeTable:
    return SizeTable(
        unit_params=tuple(params),
        unit_bytes=tuple(size),
        total_params=sizes.total_params,
        total_bytes=sizes.total_bytes,
        dtype=sizes.dtype,
    )
