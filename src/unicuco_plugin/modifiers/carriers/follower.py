"""The pass that carries a sparsity strategy out: which modifier of the recipe it is, and what it must leave alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from compressed_tensors.utils import match_targets
from llmcompressor.core import State
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.quantization.quantization.mixin import QuantizationMixin
from loguru import logger
from torch import nn

from unicuco_plugin.errors import RecipeError, listed
from unicuco_plugin.modifiers.carriers.engine_rounding import ENGINES, Follower
from unicuco_plugin.modifiers.toolkit.windows import check_samples
from unicuco_plugin.traits import cutting, storing, zeroing

__all__ = ["check_carrier", "check_ignored", "check_text", "find_follower", "find_quantiser", "warn_of_refilling"]


def find_follower(modifiers: Sequence[Modifier]) -> Follower:
    """Find the modifier that carries a sparsity strategy out.

    Args:
        modifiers: Those after ``SparsityProfileModifier`` in the recipe.

    Returns:
        The first ``SparseGPTModifier`` or ``WandaPruningModifier``.

    Raises:
        RecipeError: If there is none, or it has an N:M mask or takes its sparsities from OWL.
    """
    follower = next((modifier for modifier in modifiers if isinstance(modifier, ENGINES)), None)
    if follower is None:
        names = " or ".join(engine.__name__ for engine in ENGINES)
        found = ", ".join(type(modifier).__name__ for modifier in modifiers) or "nothing"
        raise RecipeError(
            f"a strategy of the space 'sparsity' needs {names} after SparsityProfileModifier, which zeroes the "
            f"weights; {found} follows"
        )
    name = type(follower).__name__
    if follower.mask_structure != "0:0":
        raise RecipeError(
            f"{name}: mask_structure must be '0:0' to be filled by a strategy, got {follower.mask_structure!r}: an N:M "
            "mask gives every linear the same sparsity"
        )
    if follower.sparsity_profile is not None:
        raise RecipeError(
            f"{name}: sparsity_profile must be left out to be filled by a strategy, got {follower.sparsity_profile!r}"
        )
    return follower


def find_quantiser(modifiers: Sequence[Modifier]) -> Any:  # noqa: ANN401 - a modifier and the toolkit's mixin
    """Find the modifier that carries a strategy of bits out.

    Args:
        modifiers: Those after ``SparsityProfileModifier`` in the recipe.

    Returns:
        The first ``GPTQModifier``, ``QuantizationModifier``, ``AWQModifier`` or ``AutoRoundModifier``.

    Raises:
        RecipeError: If there is none, or it has schemes of its own.
    """
    found = next((modifier for modifier in modifiers if isinstance(modifier, QuantizationMixin)), None)
    if found is None:
        names = ", ".join(type(modifier).__name__ for modifier in modifiers) or "nothing"
        raise RecipeError(
            "a strategy of the space 'precision' or 'compound' needs GPTQModifier, QuantizationModifier, AWQModifier "
            f"or AutoRoundModifier after SparsityProfileModifier, or levels to take weights from; {names} follows"
        )
    for field in ("scheme", "config_groups"):
        if getattr(found, field) is not None:
            raise RecipeError(f"{type(found).__name__}: {field} must be left out to be filled by a strategy")
    return found


def check_carrier(
    spaces: Sequence[str], levels: str | None, earlier: Sequence[Modifier], later: Sequence[Modifier]
) -> None:
    """Make sure that exactly one thing does what a strategy of zeros or bits says: a pass, or a level database.

    Args:
        spaces: Those of the strategies.
        levels: The level database's folder, if weights come from one.
        earlier: The modifiers before ``SparsityProfileModifier``.
        later: The modifiers after ``SparsityProfileModifier``.

    Raises:
        RecipeError: If there is none or there are two, or a level database has nothing to carry out.
    """
    if levels is None:
        if zeroing(spaces):
            find_follower(later)
        if storing(spaces):
            find_quantiser(later)
        return
    if storing(spaces):
        other = next((type(modifier).__name__ for modifier in (*earlier, *later)), None)
        if other is not None:
            raise RecipeError(
                f"levels already holds quantised weights, of the dense model as it is: what {other} makes of its "
                "weights would be lost or quantised again; leave one of them out"
            )
        return
    if not zeroing(spaces):
        raise RecipeError("levels goes with a strategy of the space 'sparsity', 'precision', 'compound'; there is none")
    if cutting(spaces):
        raise RecipeError(
            "levels holds the dense model's linears, and a strategy of the space 'structured' makes them smaller; "
            "leave levels out and let SparseGPTModifier or WandaPruningModifier follow"
        )
    again = next((type(modifier).__name__ for modifier in later if isinstance(modifier, ENGINES)), None)
    if again is not None:
        raise RecipeError(
            f"levels already stitches the strategy's zeros, and {again} would prune again; leave one of them out"
        )


def check_text(spaces: Sequence[str], levels: str | None, state: State) -> None:
    """Refuse a pass without text here, where the toolkit would fail on it in its own words.

    Raises:
        RecipeError: If a pass carries a sparsity strategy out, and the toolkit has no calibration data.
        CalibrationError: If it has some without samples.
    """
    check_samples(None if state.data is None else state.data.calib)
    if zeroing(spaces) and levels is None and (state.data is None or state.data.calib is None):
        raise RecipeError("a sparsity strategy's pass reads calibration text, got none; give oneshot a dataset")


def check_ignored(follower: Follower | QuantizationMixin, planned: Mapping[str, nn.Module]) -> None:
    """Refuse a pass that would ignore linears which the strategy names.

    Args:
        follower: A modifier with a list ``ignore``.
        planned: The strategy's linears by full name.

    Raises:
        RecipeError: If its ``ignore`` hits one of them.
    """
    # With a linear as its target the toolkit matches the name with a dot behind it, which "$" misses: it would prune
    # what the recipe says to ignore.
    hit = [
        name
        for name, linear in planned.items()
        if match_targets(name, linear, follower.ignore) or match_targets(f"{name}.", linear, follower.ignore)
    ]
    if hit:
        told = listed(hit, rest=" and {} more")
        raise RecipeError(
            f"{type(follower).__name__}: ignore {follower.ignore} matches linears that the strategy names: {told}; "
            "remove the pattern, or let them stay dense (--ignore) when the profile is trained"
        )


def warn_of_refilling(follower: Follower, later: Sequence[Modifier]) -> None:
    """Tell in the log of a GPTQ pass that would fill zeros again."""
    if any(type(modifier).__name__ == "GPTQModifier" for modifier in later):
        logger.warning(
            f"GPTQModifier after {type(follower).__name__} fills zeros again (0.700 fell to 0.663 in one of our runs); "
            "QuantizationModifier keeps them all"
        )
