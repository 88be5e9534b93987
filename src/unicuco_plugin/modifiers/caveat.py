"""What stands between a strategy's divergence and the checkpoint that carries it."""

from collections.abc import Sequence

__all__ = ["find_caveat"]


def find_caveat(strategies: int, others: Sequence[str]) -> str:
    """Say why the divergences of strategies are not those of a checkpoint; empty where they are.

    A profile measures each strategy alone: blocks dropped from the dense model, or weights stitched from the level
    database. Another strategy in the recipe, another pass or a quantiser makes another model of it.

    Args:
        strategies: How many strategies the recipe applies.
        others: Class names of the recipe's other modifiers, in order.
    """
    reasons = []
    if strategies > 1:
        reasons.append("for each strategy alone")
    if others:
        reasons.append(f"without the recipe's {', '.join(others)}")
    if not strategies or not reasons:
        return ""
    return f"{' and '.join(reasons)}; this checkpoint itself was not measured, unicuco evaluate does it"
