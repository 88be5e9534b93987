"""What a checkpoint is not: its strategy's divergence, every loader's, or smaller."""

from collections.abc import Sequence

from unicuco_plugin.strategy import Strategy

__all__ = ["find_divergence_note", "say_format"]

_FORMATS = {
    "compact": "Its blocks differ in size: `unicuco_plugin.load` loads it, and Transformers alone with "
    "`trust_remote_code=True`, by the code in the folder. Other tools refuse it.",
    "deci": "Its blocks differ in size: vLLM loads it as `DeciLMForCausalLM` with `--trust-remote-code`, "
    "`unicuco_plugin.load` and Transformers with `trust_remote_code=True` do, too.",
    "plain": "All its blocks have one size, so that it is a stock checkpoint of its family.",
    "stock": "What was removed is zeros in the full shape, so that stock tools load it; it is no smaller and no faster "
    "than the dense model.",
}


def find_divergence_note(
    strategies: Sequence[Strategy],
    others: Sequence[str],
    levels: str | None = None,
    *,
    own_parts: bool = True,
    corrected: str | None = None,
) -> str:
    """Say why the divergences of strategies are not those of a checkpoint; empty where they are.

    A profile measures each strategy alone: blocks dropped from the dense model, or weights stitched from the level
    database. Another strategy in the recipe, another pass or a quantiser makes it another model.

    Args:
        strategies: Those that the recipe applies.
        others: Class names of the recipe's other modifiers, in order.
        levels: Identity of the level database that weights were stitched from, if they were.
        own_parts: Whether the parts that a structured strategy leaves, and its biases, are those that it was measured
            with.
        corrected: Name of the compensation that was folded in, if one was.
    """
    reasons = []
    if len(strategies) > 1:
        reasons.append("for each strategy alone")
    elsewhere = [strategy for strategy in strategies if strategy.traits.on_levels and strategy.levels != levels]
    if levels is not None and elsewhere:
        reasons.append("of weights from another level database")
    if not own_parts and any(strategy.traits.cuts for strategy in strategies):
        reasons.append("of the profile's own parts and biases")
    measured = {strategy.compensation for strategy in strategies} - {None}
    if corrected in measured:
        reasons.append("with corrections from the profile's text")
    elif measured:
        reasons.append(f"with compensation {' and '.join(sorted(map(str, measured)))}")
    elif corrected:
        reasons.append("without the compensation")
    if others:
        reasons.append(f"without the recipe's {', '.join(others)}")
    if not strategies or not reasons:
        return ""
    return f"{' and '.join(reasons)}; this checkpoint itself was not measured; unicuco evaluate does that"


def say_format(format: str) -> str:
    """Say who loads a structured strategy's checkpoint: ``compact``, ``deci``, ``plain`` or ``stock``."""
    return _FORMATS[format]
