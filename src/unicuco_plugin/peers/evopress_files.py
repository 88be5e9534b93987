"""EvoPress's files: which sub-layers go (``layer_drop_config.txt``) and the level of every linear.

A drop file has one line for every block: ``none``, ``attn``, ``mlp`` or ``attn+mlp``, what is removed. A level file has
one line ``module.name: level`` for every linear, whose sparsity is ``S + level · step / numel``: ``S`` is the model's
mean sparsity, the step 1 000 000 weights in the published files, and the levels sum to 0. Neither ``S`` nor the step
is in the file; the published names end in ``_50``, ``_60`` and ``_70``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from unicuco_plugin.errors import StrategyError, quoted
from unicuco_plugin.files.draft import remove_drafts, write_whole
from unicuco_plugin.files.received import read_text

if TYPE_CHECKING:
    from unicuco_plugin.models.blocks.decoder import Decoder
    from unicuco_plugin.models.families.family import Kind

__all__ = [
    "STEP",
    "Drop",
    "drops_to_units",
    "levels_to_units",
    "read_drops",
    "read_either",
    "read_levels",
    "units_to_drops",
    "units_to_levels",
    "write_drops",
    "write_levels",
]

Drop = Literal["none", "attn", "mlp", "attn+mlp"]
# Weights of one level in the published files.
STEP = 1_000_000
_HALVES: "Mapping[str, Kind]" = {"attn": "attention", "mlp": "mlp"}
_DROPS: tuple[Drop, ...] = get_args(Drop)
_LEVEL = re.compile(r"(\S{1,1000}): {0,8}(-?\d{1,12})")
# Bytes of a file: a hundred thousand linears have seven million.
_LARGEST = 2**24


def read_drops(path: Path) -> tuple[Drop, ...]:
    """Read a ``layer_drop_config.txt``.

    Raises:
        StrategyError: If it cannot be read, is empty, or a line is none of the four words.
    """
    found: list[Drop] = []
    for number, line in _lines(path):
        match = [drop for drop in _DROPS if drop == line]
        if not match:
            raise StrategyError(f"{path}, line {number}: must be one of {', '.join(_DROPS)}, got {quoted(line)}")
        found += match
    return tuple(found)


def write_drops(path: Path, drops: Iterable[Drop]) -> None:
    """Write a ``layer_drop_config.txt``, whole or not at all."""
    _write(path, "".join(f"{drop}\n" for drop in drops))


def drops_to_units(drops: Sequence[Drop], decoder: "Decoder", *, halves: bool = False) -> dict[str, float]:
    """Name what a drop file removes: a block where both its halves go, else the sub-layer.

    Args:
        drops: As read.
        decoder: The model's view.
        halves: Name both halves of a block instead of the block, as the space ``sublayer`` does.

    Raises:
        StrategyError: If the file has another number of blocks, or names a half that is no module of its own.
    """
    if len(drops) != len(decoder.blocks):
        raise StrategyError(f"drops must be one line for each of {len(decoder.blocks)} blocks, got {len(drops)}")
    units = {}
    for index, drop in enumerate(drops):
        if drop == "attn+mlp" and not halves:
            units[decoder.block_names[index]] = 1.0
            continue
        for half in [_HALVES[part] for part in drop.split("+") if part != "none"]:
            name = decoder.sublayers(index).get(half)
            if name is None:
                raise StrategyError(f"drops: {decoder.block_names[index]} has no {half} as one module")
            units[name] = 1.0
    return units


def units_to_drops(units: Mapping[str, float], decoder: "Decoder") -> tuple[Drop, ...]:
    """The inverse of :func:`drops_to_units`; a block may also be given as both its sub-layers.

    Raises:
        StrategyError: If a unit is no block or sub-layer, or is not removed whole.
    """
    left = dict(units)
    drops: list[Drop] = []
    for index, block in enumerate(decoder.block_names):
        halves = decoder.sublayers(index)
        names = {"attn": halves.get("attention", ""), "mlp": halves.get("mlp", "")}
        gone = {half for half, name in names.items() if left.pop(name, 0.0) == 1.0}
        if left.pop(block, 0.0) == 1.0:
            gone = {"attn", "mlp"}
        drops.append("attn+mlp" if len(gone) == 2 else "attn" if "attn" in gone else "mlp" if gone else "none")
    partly = [name for name, share in units.items() if share != 1.0]
    for name in (*partly, *left):
        raise StrategyError(f"units must be blocks or sub-layers with share 1, got {quoted(name)}: {units[name]}")
    return tuple(drops)


def read_levels(path: Path) -> dict[str, int]:
    """Read a file of levels, linear → level.

    Raises:
        StrategyError: If it cannot be read, is empty, a line is no ``name: level``, or a name comes twice.
    """
    levels: dict[str, int] = {}
    for number, line in _lines(path):
        match = _LEVEL.fullmatch(line)
        if match is None:
            raise StrategyError(f"{path}, line {number}: must be 'module.name: level', got {quoted(line)}")
        if match[1] in levels:
            raise StrategyError(f"{path}, line {number}: {match[1]} comes twice")
        levels[match[1]] = int(match[2])
    return levels


def read_either(path: Path) -> tuple[Drop, ...] | dict[str, int]:
    """Read a file of either kind; one of levels has a colon in its first line.

    Raises:
        StrategyError: See :func:`read_drops` and :func:`read_levels`.
    """
    [(_, first), *_rest] = _lines(path)
    return read_levels(path) if ":" in first else read_drops(path)


def write_levels(path: Path, levels: Mapping[str, int]) -> None:
    """Write a file of levels, whole or not at all."""
    _write(path, "\n".join(f"{name}: {level}" for name, level in levels.items()))


def levels_to_units(
    levels: Mapping[str, int], sizes: Mapping[str, int], sparsity: float, step: int = STEP
) -> dict[str, float]:
    """Turn levels into shares, ``S + level · step / numel``; their weighted mean is S.

    Args:
        levels: Linear → level.
        sizes: Every prunable linear → its number of weights.
        sparsity: ``S``, which the file does not tell.
        step: Weights of one level.

    Returns:
        Linear → share in (0, 1]; those that lose nothing are not listed.

    Raises:
        StrategyError: If the linears are not those of the model, levels do not sum to 0, or a share leaves [0, 1].
    """
    unlike = sorted(levels.keys() ^ sizes.keys())
    if unlike:
        where = "the file" if unlike[0] in sizes else "the model"
        raise StrategyError(f"levels must name every prunable linear of the model once: {where} lacks {unlike[0]}")
    if sum(levels.values()):
        raise StrategyError(f"levels must sum to 0, so that the mean is the sparsity, got {sum(levels.values())}")
    units = {}
    for name, numel in sizes.items():
        share = float(Fraction(sparsity) + Fraction(levels[name] * step, numel))
        if not 0.0 <= share <= 1.0:
            raise StrategyError(
                f"levels: {name} at {levels[name]} has share {share:.4g}, which must be in [0, 1]; is the step "
                f"(--step) {step:,} and the sparsity {sparsity:g}?"
            )
        if share > 0.0:
            units[name] = share
    return units


def units_to_levels(
    units: Mapping[str, float], sizes: Mapping[str, int], sparsity: float, step: int = STEP
) -> dict[str, int]:
    """The inverse of :func:`levels_to_units`, to a weight of each linear.

    Raises:
        StrategyError: If a unit is no linear, a share lies between two levels, or levels do not sum to 0.
    """
    unknown = sorted(units.keys() - sizes.keys())
    if unknown:
        raise StrategyError(f"units must be prunable linears of the model, got {quoted(unknown[0])}")
    levels = {}
    for name, numel in sizes.items():
        moved = (units.get(name, 0.0) - sparsity) * numel
        levels[name] = round(moved / step)
        if abs(moved - levels[name] * step) > 1.0:
            raise StrategyError(
                f"units[{quoted(name)}] must be {sparsity:g} and whole levels of {step:,} weights, got "
                f"{units.get(name, 0.0)}"
            )
    if sum(levels.values()):
        raise StrategyError(f"levels must sum to 0, so that the mean is the sparsity, got {sum(levels.values())}")
    return levels


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        lines = read_text(path, largest=_LARGEST).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StrategyError(f"EvoPress file {path} cannot be read: {error}") from error
    found = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise StrategyError(f"EvoPress file {path} is empty")
    return found


def _write(path: Path, text: str) -> None:
    remove_drafts(path.parent, path.name)
    write_whole(path, text.encode("utf8"))
