"""Head groups and neurons that go out of attentions and MLPs."""

from dataclasses import replace

from torch import Tensor

from unicuco_plugin.costs.measure import part_costs
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.models.parts.cuts import check_cuts
from unicuco_plugin.models.parts.deci import check_deci_family
from unicuco_plugin.payload import Payload
from unicuco_plugin.plugins.manager import make_ranking, make_space
from unicuco_plugin.scores.ranked_parts import RankedParts, rank_parts
from unicuco_plugin.spaces.structured import StructuredSpace
from unicuco_plugin.training.interactions import interaction_starts
from unicuco_plugin.training.subject import ATTENTIONS, Ask, Start, Subject

__all__ = ["part_subject"]


def part_subject(ask: Ask) -> Subject:
    """Units are attentions and MLPs with their parts.

    Raises:
        UnsupportedModelError: If modules cannot be split into parts, parts cannot go one by one, or the units are for
            the form ``deci`` and the model does not compute what Llama does.
        UnknownNameError: If no plugin provides the ranking.
    """
    decoder, units = ask.decoder, ask.units
    ranking = make_ranking(units.ranking)
    check_cuts(decoder)
    uneven = units.form is not None
    if uneven:
        check_deci_family(decoder)
    costs = part_costs(decoder, round_to=units.round_to, compensate=units.biased, uneven=uneven)
    table = costs.table
    space = make_space(ask.name, costs.units, table.unit_params, parts=table.parts, physical=costs.physical)
    header = {"ranking": units.ranking, "compensate": units.biased, "round_to": units.round_to}
    header |= {"units": ATTENTIONS} if uneven else {}

    def prepare(windows: Tensor) -> Payload:
        return replace(rank_parts(decoder, windows, ranking, compensate=units.biased), uneven=uneven).to_payload()

    def start(journal: Journal, windows: Tensor, payload: Payload | None) -> Start:
        if payload is None or not isinstance(space, StructuredSpace):  # a plugin may have its own
            return Start()
        ranked = RankedParts.of(payload)
        first, prior, tokens = interaction_starts(decoder, space, windows, ranked, journal)
        return Start(first, prior, tokens + ranked.tokens)

    return Subject(space, costs, header, None, prepare, start)
