"""First strategies of structured pruning: the reconstruction's at every budget, and simpler rules at some."""

import torch
from torch import Tensor

from unicuco_plugin.models.decoder import Decoder
from unicuco_plugin.objectives.interaction import InteractionMeter, InteractionPath, measure_path
from unicuco_plugin.objectives.ranked_parts import RankedParts
from unicuco_plugin.peers.parts import embed, kind_space
from unicuco_plugin.peers.structured import flap_shares
from unicuco_plugin.search.journal import Journal
from unicuco_plugin.spaces.structured import StructuredSpace

__all__ = ["find_starts", "interaction_starts"]

# Interactions are measured on the way to this share; what lies beyond follows the last of them.
_FURTHEST = 0.5
# The largest share that first strategies remove: beyond it nothing is of use.
_MOST = 0.75


def interaction_starts(
    decoder: Decoder, space: StructuredSpace, windows: Tensor, ranked: RankedParts, journal: Journal
) -> tuple[Tensor, int]:
    """Measure interactions, journaled round by round, and make first strategies of them.

    Args:
        decoder: The dense model.
        space: Over it.
        windows: ``m x L`` ranking windows.
        ranked: Which parts of a module go first.
        journal: Keeps the interactions.

    Returns:
        First strategies ``n x d``, and the evaluation tokens spent.
    """
    known = journal.notes()
    meter = InteractionMeter(decoder, windows)
    spent = 0

    def measure(x: Tensor) -> Tensor:
        nonlocal spent
        note = f"interactions {space.key(x)}"
        if note not in known:
            found = meter.measure(ranked.keep(decoder, space.to_units(x)), space.units)
            known[note] = dict(zip(space.units, found.tolist(), strict=True))
            journal.write_note(note, known[note])
        spent += windows.numel() * (1 + int((x < 1.0).sum()))
        return torch.tensor([known[note][unit] for unit in space.units], dtype=torch.float64)

    path = measure_path(space, measure, _FURTHEST)
    return find_starts(space, path, decoder, ranked), spent


def find_starts(space: StructuredSpace, path: InteractionPath, decoder: Decoder, ranked: RankedParts) -> Tensor:
    """The reconstruction at every budget; uniform, FLAP's threshold and one kind alone at a third each, ``n x d``."""
    budgets = [budget for budget in space.budgets if budget <= _MOST + 1e-9]
    rows = [path.assign(budget) for budget in budgets]
    kinds = []
    for kind in ("attention", "mlp"):
        inner, places = kind_space(space, decoder, kind)
        alone = InteractionPath(inner, torch.zeros(1, len(places), dtype=torch.float64), path.TE[:1, places])
        kinds.append((inner, places, alone, (inner.params.sum() / space.params.sum()).item()))
    for index, budget in enumerate(budgets):
        if index % 3 == 0:
            rows.append(space.project(torch.zeros(1, len(space.units), dtype=torch.float64), budget)[0])
        if index % 3 == 1:
            rows.append(space.spend(flap_shares(space, ranked, budget)[None], budget)[0])
        if index % 3 == 2:
            rows += [
                embed(alone.assign(budget / share), places, space)
                for inner, places, alone, share in kinds
                if budget / share < inner.most
            ]
    return torch.stack(rows)
