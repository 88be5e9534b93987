"""A strategy applied to a model in memory: checked against it, then its blocks dropped and its sub-layers silenced."""

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn

from unicuco_plugin.errors import ModelMismatchError, StrategyError, listed, quoted
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.blocks.fingerprint import Fingerprint, config_fingerprint, fingerprint
from unicuco_plugin.models.blocks.needed import check_needed
from unicuco_plugin.models.blocks.sublayers import sublayer_names, zero_outputs
from unicuco_plugin.models.blocks.surgery import drop_blocks
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.models.tensors.memory import warn
from unicuco_plugin.strategy import ModelReference, Strategy, split_halves

__all__ = [
    "apply_strategy",
    "check_config",
    "check_model",
    "check_parts",
    "dropped_blocks",
    "removed_parts",
    "whole_modules",
]

Model = TypeVar("Model", bound=nn.Module)


def check_config(config: Any, reference: ModelReference) -> None:  # noqa: ANN401 - a Transformers configuration
    """Refuse a model of another structure from its configuration alone, before any weight is read.

    Args:
        config: The configuration of a model with all its blocks.
        reference: What the strategy or profile says about its model.

    Raises:
        ModelMismatchError: If the structure differs, or the reference holds no fingerprint.
    """
    _check_structure(config_fingerprint(config), reference)


def check_model(
    model: nn.Module, reference: ModelReference, *, accept_other_weights: bool, actual: Fingerprint | None = None
) -> bool:
    """Compare a model with the one that a strategy or profile was made for.

    Args:
        model: A causal language model with all its blocks.
        reference: What the strategy or profile says about its model.
        accept_other_weights: Whether to accept the same structure with other weights (a fine-tune).
        actual: The model's fingerprint where the caller has it already; computed otherwise.

    Returns:
        True where the weights differ and that was accepted: divergences are then carried over, not measured.

    Raises:
        ModelMismatchError: If the structure differs, or the weights do without being accepted, or the reference
            holds no fingerprint.
    """
    found = actual or fingerprint(model)
    expected = _check_structure(found.structure, reference)
    if found.weights == expected.weights:
        return False
    if not accept_other_weights:
        raise ModelMismatchError(
            f"profile or strategy: made for {quoted(reference.name)}; this model has the same structure but other "
            f"weights (expected weight fingerprint {expected.weights}, got {found.weights}); pass "
            "--accept-other-weights (in a recipe accept_other_weights: true) to use it anyway, with divergences "
            "carried over"
        )
    return True


def _check_structure(found: str, reference: ModelReference) -> Fingerprint:
    expected = Fingerprint.parse(reference.fingerprint)
    if found != expected.structure:
        raise ModelMismatchError(
            f"profile or strategy: made for {quoted(reference.name)}, whose structure this model does not have "
            f"(expected structure fingerprint {expected.structure}, got {found}); give that model or a fine-tune of "
            "it, or train a profile for this one"
        )
    return expected


def dropped_blocks(decoder: Decoder, strategy: Strategy) -> tuple[int, ...]:
    """Read the blocks that a depth strategy drops.

    Args:
        decoder: The view of a model with all its blocks.
        strategy: A strategy of the space ``depth``, or another one that drops blocks.

    Returns:
        Block indices, ascending.

    Raises:
        StrategyError: If the strategy is of another space, names a unit that is not a block of this model, keeps a
            part of a block, or leaves no block, or none that generation needs.
    """
    if not strategy.traits.whole or strategy.traits.halves:
        raise StrategyError(f"space must be 'depth' for blocks to be dropped, got {quoted(strategy.space)}")
    index = {name: i for i, name in enumerate(decoder.block_names)}
    unknown = sorted(strategy.shares.keys() - index.keys())
    if unknown:
        first, last = decoder.block_names[0], decoder.block_names[-1]
        raise StrategyError(f"units must be blocks of the model, {first} to {last}, got {listed(unknown)}")
    for name, share in strategy.shares.items():
        if share != 1.0:
            raise StrategyError(f"units[{quoted(name)}] must be 1.0, since a block goes as a whole, got {share}")
    return _checked(decoder, [index[name] for name in strategy.shares])


def _checked(decoder: Decoder, indices: Sequence[int]) -> tuple[int, ...]:
    """Blocks that may go together, ascending."""
    chosen = decoder.check_indices(indices)
    check_needed(decoder, chosen)
    return chosen


def removed_parts(decoder: Decoder, strategy: Strategy) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Read what a strategy of whole units removes.

    Args:
        decoder: The view of a model with all its blocks.
        strategy: A strategy of the space ``depth``, ``sublayer`` or ``compound``.

    Returns:
        Indices of the blocks that go whole, ascending, and names of the sub-layers whose other half stays.

    Raises:
        StrategyError: If the strategy is of another space, names a unit that the model lacks, keeps a part of one, or
            leaves nothing, or no block that generation needs.
        UnsupportedModelError: If the model keeps a sub-layer in no module of its own.
    """
    if not strategy.traits.halves:
        return dropped_blocks(decoder, strategy), ()
    known = {name for half in sublayer_names(decoder) for name in half}
    unknown = sorted(strategy.units.keys() - known)
    if unknown:
        raise StrategyError(f"units must be attentions and MLPs of the model, such as {min(known)}, got {unknown[0]}")
    for name, share in strategy.units.items():
        if share != 1.0:
            raise StrategyError(f"units[{quoted(name)}] must be 1.0, since a sub-layer goes as a whole, got {share}")
    whole, lone = split_halves(strategy.units)
    return _checked(decoder, [decoder.block_names.index(block) for block in whole]), lone


def check_parts(decoder: Decoder, strategy: Strategy, parts: KeptParts) -> None:
    """Hold kept parts against the shares of the strategy that they carry out.

    Args:
        decoder: The dense model.
        strategy: A strategy of the space ``structured``.
        parts: What stays.

    Raises:
        StrategyError: If the strategy is of another space, either names modules that the model lacks, or a module
            keeps another number of parts than its share says.
        UnsupportedModelError: If the model's modules cannot be split into parts.
    """
    if not strategy.traits.cuts:
        raise StrategyError(f"space must be 'structured' for parts to be removed, got {quoted(strategy.space)}")
    parts.check(decoder)
    found = find_parts(decoder)
    for name in sorted({*strategy.units, *parts.kept}):
        if name not in found:
            raise StrategyError(f"units must be attentions and MLPs of the model, such as {min(found)}, got {name}")
        count, share = found[name].count, strategy.shares.get(name, 0.0)
        kept = len(parts.kept.get(name, range(count)))
        if kept != count - round(share * count):
            raise StrategyError(
                f"kept[{quoted(name)}] must have {count - round(share * count)} of {count} parts, as units says "
                f"{share:g}; got {kept}: the parts are those of another strategy"
            )


def whole_modules(strategy: Strategy) -> KeptParts | None:
    """What stays where a structured strategy removes modules whole; None where shares must be ranked."""
    if any(share != 1.0 for share in strategy.units.values()):
        return None
    # Nothing is ranked and no bias stands for anything, so there is one such model.
    return KeptParts(dict.fromkeys(strategy.units, ()), measured=True)


def apply_strategy(
    model: Model,
    strategy: Strategy,
    *,
    kept_parts: KeptParts | None = None,
    format: str = "compact",
    accept_other_weights: bool = False,
) -> Model:
    """Remove what a strategy names from a model in memory, for good.

    If a sub-layer goes and its block keeps the other half, its output projection is zeroed, which saves no parameter.
    Nothing is corrected for what goes: where the strategy's divergence is with a compensation, that is said in the log.

    Args:
        model: A causal language model, on any device; it is changed in place.
        strategy: A strategy of the space ``depth``, ``sublayer`` or ``structured``, as ``Profile.answer`` gives it.
        kept_parts: For ``structured``: which parts stay. A strategy that only removes whole modules needs none.
        format: For ``structured``: ``compact``, or ``stock`` for zeros in the full shape.
        accept_other_weights: Whether to accept the same structure with other weights (a fine-tune).

    Returns:
        The same model. Its configuration agrees with it, so ``save_pretrained`` writes a stock checkpoint.

    Raises:
        ModelMismatchError: If the strategy was made for another model.
        StrategyError: If it is of another space, or its units are not in this model.
        UnsupportedModelError: If the model cannot be pruned. After any error the model is unchanged.
    """
    decoder = find_decoder(model)
    if strategy.compensation is not None:
        warn(
            f"strategy: its divergence is with compensation {quoted(strategy.compensation)}, which apply_strategy does "
            "not fold in: unicuco prune, or SparsityProfileModifier, solves it from calibration text"
        )
    if strategy.traits.stores:
        raise StrategyError(
            f"space must be one that only removes, got {quoted(strategy.space)}, which also stores weights by schemes: "
            "unicuco prune does"
        )
    if strategy.traits.cuts:
        parts = kept_parts or whole_modules(strategy)
        if parts is None:
            raise StrategyError("kept_parts must be given for a strategy that removes parts of modules, got None")
        check_parts(decoder, strategy, parts)
        check_model(model, strategy.model, accept_other_weights=accept_other_weights)
        apply_parts(decoder.model, parts, format=format)
        return model
    indices, silent = removed_parts(decoder, strategy)
    check_model(model, strategy.model, accept_other_weights=accept_other_weights)
    restore = zero_outputs(decoder, silent)
    try:
        drop_blocks(model, indices)
    except BaseException:
        restore()
        raise
    return model
