"""A profile under a load: what it can be asked there, and its front, made in the thread that answers, and kept."""

import asyncio
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import asdict
from typing import Any, TypeAlias

from unicuco_plugin.errors import RequestError
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.quantities import Load
from unicuco_plugin.request import KINDS, LOADED
from unicuco_plugin.web.answers import Answers, BusyError
from unicuco_plugin.web.library import Served
from unicuco_plugin.web.offers import find_offer_under

__all__ = ["Fronts", "describe_under"]

# Fronts that a worker keeps, a hundred kilobytes and more each, and requests for one that may wait for their turn.
_MOST_KEPT, _MOST_WAITING = 64, 64
_LONGEST = 30.0  # seconds that such a request may wait

_Steps: TypeAlias = Generator[None, None, dict[str, Any]]


def describe_under(served: Served, load: Load, cost: str = "") -> _Steps:
    """What ``Served.to_front`` says, under a load, step by step: each takes some seconds at the most.

    ``untold`` says why a field cannot be asked there.

    Args:
        served: The profile.
        load: What memory and time are counted under.
        cost: ``memory``, ``latency`` or ``time``: whose front it is; see :meth:`Profile.front`.

    Raises:
        RequestError: If the profile can tell neither memory nor time there, or not be asked that cost.
    """
    profile, found, untold = served.profile, dict(served.offers), {}
    front = profile.front(load)
    for kind in LOADED:
        yield
        try:
            offer = find_offer_under(profile, kind, load)
        except RequestError as error:
            untold[kind] = str(error)
        else:
            if offer is None:
                untold[kind] = f"{kind} cannot be asked under this load: no strategy of this profile lowers it"
            else:
                found[kind] = offer
    if not any(strategy.memory or strategy.latency for strategy in front):
        raise RequestError(untold["max_latency"])
    if cost:
        yield
        front = profile.front(load, cost)
    return {
        **served.describe(),
        "load": asdict(load),
        "offers": {kind: found[kind].to_dict() for kind in KINDS if kind in found},
        "untold": untold,
        "unit_names": list(profile.units),
        "front": [strategy.to_dict() for strategy in front],
    }


class Fronts:
    """Fronts under loads, one in the making at a time: between two of its steps others are answered.

    Args:
        answers: Whose thread makes them.
    """

    def __init__(self, answers: Answers) -> None:
        self._thread, self._turn, self._waiting = answers.thread, asyncio.Lock(), 0
        self._kept: OrderedDict[tuple[str, str, Load, str], str] = OrderedDict()

    async def text(self, served: Served, load: Load, cost: str) -> str:
        """What :func:`describe_under` says, as JSON.

        Raises:
            RequestError: See there.
            BusyError: If too many wait already, or it takes too long.
        """
        key = served.name, served.digest, load, cost
        if key not in self._kept:
            if self._waiting >= _MOST_WAITING:
                raise BusyError(f"fronts must wait in a line of at most {_MOST_WAITING}; ask again later")
            self._waiting += 1
            try:
                async with asyncio.timeout(_LONGEST), self._turn:
                    if key not in self._kept:  # made for another, meanwhile
                        self._kept[key] = await self._make(describe_under(served, load, cost))
            except TimeoutError as error:
                raise BusyError(f"fronts must be made within {_LONGEST:g} seconds; ask again later") from error
            finally:
                self._waiting -= 1
        self._kept.move_to_end(key)
        text = self._kept[key]
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return text

    async def _make(self, steps: _Steps) -> str:
        loop = asyncio.get_running_loop()
        while (text := await loop.run_in_executor(self._thread, _step, steps)) is None:
            pass
        return text


def _step(steps: _Steps) -> str | None:
    """Take one; the last gives the text."""
    try:
        next(steps)
    except StopIteration as end:  # which no future can hold
        return json_text(end.value)
    return None
