"""The fields of a modifier that say where its strategy comes from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unicuco_plugin.modifiers.sources.source import EvoPressSource, PeerSource, ProfileSource
from unicuco_plugin.payload import Payload
from unicuco_plugin.peers.evopress_files import read_either
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.traits import storing, traits_of

__all__ = [
    "check_source",
    "find_inputs",
    "find_payload",
    "largest_share",
    "list_sources",
    "plain_source",
    "read_strategies",
    "trace_source",
]

_SOURCES = ("profile", "strategy", "profiles", "peer", "evopress")


def plain_source(value: object) -> object:
    """Write paths and strategies as a recipe holds them: as text and as mappings."""
    match value:
        case Path():
            return str(value)
        case Strategy():
            return value.to_dict()
        case list():
            return [plain_source(item) for item in value]
        case _:
            return value


def check_source(fields: Mapping[str, Any]) -> None:
    """Hold the fields of a modifier that say where its strategy comes from against each other.

    Raises:
        ValueError: If not exactly one source is given, a request is missing or too much, or a list is empty.
    """
    given = [name for name in _SOURCES if fields[name] is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of {', '.join(_SOURCES)}; got {', '.join(given) or 'none'}")
    asked = "peer" if fields["peer"] else "profile"
    if (fields[asked] is None) != (fields["request"] is None):
        raise ValueError(f"{asked} and request go together: {asked}: NAME, request: {{sparsity: 0.25}}")
    if fields["peer"] is not None:
        wanted = "bits" if storing(fields["peer"].spaces) else "sparsity"
        if list(fields["request"] or ()) != [wanted]:
            raise ValueError(f"request must be for {wanted} with this peer, got {fields['request']}")
    if fields.get("device_table") is not None and not (fields["profile"] or fields["profiles"]):
        raise ValueError(f"device_table goes with profile or profiles, got {given[0]}")
    if fields["profiles"] == [] or fields["strategy"] == []:
        raise ValueError(f"{given[0]} must not be empty")


def read_strategies(given: str | dict[str, Any] | list[str | dict[str, Any]]) -> tuple[Strategy, ...]:
    """Read strategies given by file names or as mappings.

    Raises:
        StrategyError: If one cannot be read.
    """
    each = given if isinstance(given, list) else [given]
    return tuple(Strategy.read(Path(one)) if isinstance(one, str) else Strategy.from_dict(one) for one in each)


def find_inputs(fields: Mapping[str, Any]) -> list[str]:
    """Names of the files and folders that a modifier with these fields reads."""
    strategies = fields["strategy"] if isinstance(fields["strategy"], list) else [fields["strategy"]]
    named = [fields["profile"], fields["levels"], *(one.profile for one in fields["profiles"] or ())]
    named += [one.device_table for one in list_sources(fields)]
    named += [strategy for strategy in strategies if isinstance(strategy, str)]
    named += [] if fields["structured"] is None else [fields["structured"].kept_parts]
    named += [] if fields["peer"] is None else [fields["peer"].levels, fields["peer"].journal]
    named += [] if fields["evopress"] is None else [fields["evopress"].file]
    return [name for name in named if name is not None]


def largest_share(fields: Mapping[str, Any]) -> float:
    """The most that a source which has not yet seen the model may remove of it, as far as can be said."""
    if fields["evopress"] is not None:
        found = read_either(Path(fields["evopress"].file))
        return 0.0 if isinstance(found, dict) else sum(drop != "none" for drop in found) / len(found)
    # What is asked for, and as much again for whole units that reach it.
    return min(2.0 * (fields["request"] or {}).get("sparsity", 0.5), 1.0)


def list_sources(fields: Mapping[str, Any]) -> list[ProfileSource]:
    """The profiles that are asked, each with its request."""
    table = fields.get("device_table")
    if fields["profile"]:
        return [ProfileSource(profile=fields["profile"], request=fields["request"] or {}, device_table=table)]
    given: list[ProfileSource] = fields["profiles"] or []
    return [one if one.device_table else one.model_copy(update={"device_table": table}) for one in given]


def find_payload(sources: Sequence[ProfileSource]) -> Payload | None:
    """What strategies need beyond shares, of the one profile among them whose space needs something.

    Raises:
        ProfileError: If that profile does not hold it.
    """
    from unicuco_plugin.answering import load_profile  # noqa: PLC0415 - it brings the search's packages with it

    profiles = (load_profile(one.profile) for one in sources)
    return next((profile.payload for profile in profiles if traits_of(profile.space).payload), None)


def trace_source(source: object, request: Mapping[str, Any] | None) -> list[dict[str, Any]] | None:
    """Say in a recipe's words where a strategy came from; None for one that the recipe held itself.

    Args:
        source: A strategy file's name, a peer, a file of EvoPress, or a list of profiles.
        request: What a peer was asked.
    """
    match source:
        case PeerSource():
            return [{"peer": source.model_dump(exclude_none=True), "request": request}]
        case EvoPressSource():
            return [{"evopress": source.model_dump(exclude_none=True)}]
        case [ProfileSource(), *_]:
            return [one.model_dump(exclude_none=True) for one in source if isinstance(one, ProfileSource)]
        case str():
            return [{"strategy": source}]
    return None
