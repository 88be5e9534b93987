"""Sets of units that go whole, by enumeration, and groups of which one has to stay."""

import itertools

import torch
from hypothesis import strategies as st

__all__ = ["groups_of", "sets_of"]


@st.composite
def groups_of(draw, count):
    """No group, one or two, none in both."""
    of = draw(st.lists(st.sampled_from([None, 0, 1]), min_size=count, max_size=count))
    found = [tuple(i for i, group in enumerate(of) if group == g) for g in (0, 1)]
    return tuple(group for group in found if group)


def sets_of(count, needed):
    """Every set that removes something and leaves one of those that are needed, ``n x count``."""
    groups = needed or (range(count),)
    rows = itertools.product((0.0, 1.0), repeat=count)
    return torch.tensor(
        [x for x in rows if any(x) and not any(all(x[i] for i in g) for g in groups)], dtype=torch.float64
    )
