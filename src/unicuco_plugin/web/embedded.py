"""The page as one file that needs no server: a profile's front, and a grid of its answers to each kind of request."""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unicuco_plugin.errors import ExportError
from unicuco_plugin.files.draft import remove_drafts, write_whole
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.files.received import parse_json
from unicuco_plugin.quantities import Load
from unicuco_plugin.report.figure import check_picture
from unicuco_plugin.request import LIMITS, LOADED, Request
from unicuco_plugin.web.answers import answer_each
from unicuco_plugin.web.carrying import all_templates
from unicuco_plugin.web.library import Served
from unicuco_plugin.web.loads import describe_under
from unicuco_plugin.web.offers import Offer
from unicuco_plugin.web.page import Page

__all__ = ["save_page"]

_STEPS = 40  # of a grid: finer than a slider on a phone is moved
_DIGITS = 4  # of shares in it, which are most of the file
_LOOSER = 1.0005  # than an end of an interval: a limit that its strategy keeps


def save_page(served: Served, path: Path, load: Load | None = None) -> None:
    """Write the page of one profile, replacing one that we wrote.

    Args:
        served: The profile.
        path: The file.
        load: What memory and times are counted under; without one there are none.

    Raises:
        ExportError: If the file's name does not end in .html, there is something else, or it cannot be written.
        RequestError: If the profile can tell neither memory nor times under the load.
    """
    check_picture(path, (".html",), "page")
    text = Page(json_text({"profiles": [_content(served, load)]})).text
    try:
        remove_drafts(path.parent, path.name)
        write_whole(path, text.encode())
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error}") from error


def _content(served: Served, load: Load | None) -> dict[str, Any]:
    profile = served.profile
    about = {**served.describe(), "unit_names": list(profile.units), "front": served.front}
    offers, fronts = served.offers, {}
    if load is not None:
        about = _exhaust(describe_under(served, load))
        offers = {field: Offer(**offer) for field, offer in about["offers"].items()}
        costs = [LIMITS[kind].cost for kind in LOADED if kind in offers]
        fronts = {cost: [strategy.to_dict() for strategy in profile.front(load, cost)] for cost in costs}
    strategies: dict[str, int] = {}
    grids = {field: _grid(served, field, offer, load, strategies) for field, offer in offers.items()}
    return {
        **about,
        "offers": {field: offers[field].to_dict() for field, grid in grids.items() if grid["values"]},
        **all_templates(profile.space, served.name, times=about["latency"]),
        "front": [_shown(strategy) for strategy in about["front"]],
        # Where it is another one: most costs have the front of all.
        "fronts": {cost: [_shown(one) for one in front] for cost, front in fronts.items() if front != about["front"]},
        "grids": grids,
        "strategies": [_shown(parse_json(text)) for text in strategies],
    }


def _exhaust(steps: Generator[None, None, dict[str, Any]]) -> dict[str, Any]:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: dict[str, Any] = end.value
            return found


def _grid(
    served: Served, field: str, offer: Offer, load: Load | None, strategies: dict[str, int]
) -> dict[str, Sequence[object]]:
    """Values of a field that have an answer, and the answers' places among all strategies."""
    beside = {} if load is None else load.to_fields(phase=field == "min_speedup")
    values = [_value(field, offer, step / _STEPS) for step in range(_STEPS + 1)]
    found = answer_each(served.profile, [Request.of(**{field: value}, **beside) for value in values])
    texts = [answer.text for answer in found]
    # Several requests have one answer; what differs is the request itself.
    plain = [json_text({**parse_json(text), "request": None}) if text else "" for text in texts]
    for text in filter(None, plain):
        strategies.setdefault(text, len(strategies))
    kept = [(value, strategies[text]) for value, text in zip(values, plain, strict=True) if text]
    return {"values": [value for value, _ in kept], "answers": [place for _, place in kept]}


def _value(field: str, offer: Offer, place: float) -> Any:  # noqa: ANN401 - as the request has it
    """What the page asks for at a place of its slider, from 0 to 1."""
    if field == "preference":
        return (round(place, 3), round(1.0 - place, 3))
    if field == "max_divergence":
        low = max(offer.low, 1e-6)
        return float(f"{low * (offer.high / low) ** place * _LOOSER:.4g}")
    if field in LOADED:
        return offer.at(place, inverse=LIMITS[field].inverse)
    value = offer.low + (offer.high - offer.low) * place
    return round(value) if offer.whole else value


def _shown(strategy: Mapping[str, Any]) -> dict[str, Any]:
    units = {name: v if isinstance(v, str) else round(v, _DIGITS) for name, v in strategy["units"].items()}
    return {**strategy, "units": units}
