"""How an answer is carried out: as a recipe, a command, or Python."""

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from unicuco_plugin.costs.latency import LATENCY, TIME
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.traits import SpaceTraits, traits_of

__all__ = ["all_templates", "templates", "write_recipe"]

_REQUEST, _SPARSITY, _OPTIONS = "REQUEST", "SPARSITY", "OPTIONS"
_TABLE = "device.json"


def write_recipe(strategy: Strategy, profile: str) -> str:
    """A recipe for ``oneshot`` or ``unicuco prune --recipe``: the strategy itself, so that no profile is needed.

    Where it needs what only the profile has, such as which parts go first, the recipe names that and the request, and
    for limits on time a file ``device.json`` with the table that answered.

    Args:
        strategy: An answer.
        profile: Name of the profile that gave it.
    """
    traits = traits_of(strategy.space)
    if traits.payload is None:
        source: dict[str, Any] = {"strategy": strategy.to_dict()}
    else:
        source = {"profile": profile, "request": strategy.request.to_dict()}
        if strategy.request.costs & {LATENCY, TIME}:
            source["device_table"] = _TABLE
    return _dump(traits, source, round(strategy.sparsity, 6))


def templates(space: str, profile: str, *, timed: bool = False) -> Mapping[str, str]:
    """What a page copies for any answer of a profile, by name; three words in capitals stand for what differs.

    ``REQUEST`` is the request as JSON, ``OPTIONS`` as options of the command line, ``SPARSITY`` the answer's share.

    Args:
        space: Of its strategies.
        profile: Its name.
        timed: Whether the answer says what a device takes to run it, so that ``device.json`` is needed for it.
    """
    traits = traits_of(space)
    text = " --calibration text.txt" if traits.on_levels else ""
    table = f" --device-table {_TABLE}" if timed else ""
    asked = f"{_OPTIONS}{table}"
    needs = " --recipe recipe.yaml" if traits.zeroes or traits.stores else f" --profile {shlex.quote(profile)} {asked}"
    source = {"profile": profile, "request": _REQUEST, **({"device_table": _TABLE} if timed else {})}
    loaded = f"{profile!r}, device_table={_TABLE!r}" if timed else repr(profile)
    return {
        "ask": f"unicuco strategy {shlex.quote(profile)} {asked} --json",
        "command": f"unicuco prune --model MODEL{needs}{text} --output OUTPUT",
        "recipe": _dump(traits, source, _SPARSITY),
        "python": f"from unicuco_plugin import load_profile\n\nload_profile({loaded}).answer(**{_REQUEST})\n",
    }


def all_templates(space: str, profile: str, *, times: bool) -> dict[str, Mapping[str, str]]:
    """What a page copies: ``templates``, and ``timed_templates`` where a profile has times of a device."""
    plain = {"templates": templates(space, profile)}
    return plain | ({"timed_templates": templates(space, profile, timed=True)} if times else {})


def _dump(traits: SpaceTraits, source: Mapping[str, Any], sparsity: float | str) -> str:
    own = {"SparsityProfileModifier": dict(source)}
    stages: dict[str, Any] = {}
    if traits.stores:
        ours = {"pruning_stage": {"pruning_modifiers": own}} if traits.whole else {}
        quantiser = {"GPTQModifier": {"ignore": ["lm_head"]}}
        modifiers = quantiser if traits.whole else {**own, **quantiser}
        stages = {**ours, "quantization_stage": {"quantization_modifiers": modifiers}}
    else:
        zeroing = {"SparseGPTModifier": {"sparsity": sparsity, "ignore": ["re:.*lm_head"]}} if traits.zeroes else {}
        stages = {"pruning_stage": {"pruning_modifiers": {**own, **zeroing}}}
    text: str = yaml.safe_dump(stages, sort_keys=False, allow_unicode=False, width=110)
    return text
