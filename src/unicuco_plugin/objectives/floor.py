"""The least that a divergence counts as where its logarithm is taken.

Zero is an answer: a block that changes nothing is the best one to remove, and measures exactly 0. The search compares
logarithms, and what is below the floor compares as equal; the journal and a profile's confirmed divergences keep what
was measured.
"""

__all__ = ["LEAST", "floored"]

# Nats per token. It changes a perplexity by a hundredth of a per cent, and half-precision models differ from
# themselves by about as much when sums take another order. Tinier floors make outliers of what is 0: on a model with
# two idle blocks of six (sub-layers, 24 first strategies of 4,094) a surrogate told the logarithms above 0.01 nats to
# 1.12 with 1e-9, 0.63 with 1e-6, 0.39 with 1e-5, 0.100 with 1e-4, 0.102 with 1e-3 and 0.18 with 1e-2 (RMS).
LEAST = 1e-4


def floored(value: float) -> float:
    """A measured divergence as the search compares it."""
    return max(value, LEAST)
