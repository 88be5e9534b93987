"""Finds plugins, asks them, and survives broken ones."""

import importlib.metadata
import inspect
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import pluggy

from unicuco_plugin.compensation.methods import Compensation
from unicuco_plugin.errors import PluginError, UnicucoError, UnknownNameError, quoted
from unicuco_plugin.objectives.objective import Objective, ObjectiveRequest
from unicuco_plugin.peers.peer import Peer
from unicuco_plugin.plugins import builtin, hookspecs
from unicuco_plugin.policy.scalarization import Scalarization
from unicuco_plugin.schemes import Choice
from unicuco_plugin.scores.ranking import Ranking
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.traits import SpaceTraits

__all__ = [
    "KINDS",
    "Kind",
    "PluginEntry",
    "corrects",
    "find_traits",
    "list_plugins",
    "make_compensation",
    "make_objective",
    "make_peer",
    "make_ranking",
    "make_scalarization",
    "make_space",
    "plugin_manager",
]

Kind = Literal["space", "objective", "scalarization", "peer", "ranking", "compensation"]
KINDS: tuple[Kind, ...] = ("space", "objective", "scalarization", "peer", "ranking", "compensation")
GROUP = "unicuco"
# Set to 1 to load none but the built-ins; tests do.
SWITCH = "UNICUCO_DISABLE_PLUGINS"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PluginEntry:
    """One thing that a plugin provides.

    Attributes:
        kind: ``space``, ``objective``, ``scalarization``, ``peer``, ``ranking`` or ``compensation``.
        name: What users call it.
        package: The distribution it comes from.
        version: That distribution's version; empty if unknown.
        hooks: The hooks its plugin implements.
    """

    kind: str
    name: str
    package: str
    version: str
    hooks: tuple[str, ...]


@lru_cache(maxsize=1)
def plugin_manager() -> pluggy.PluginManager:
    """The one manager of this process: built-ins first, then installed plugins of the entry-point group ``unicuco``.

    A plugin that cannot be loaded is logged with its name and skipped.
    """
    manager = pluggy.PluginManager("unicuco")
    manager.add_hookspecs(hookspecs)
    manager.register(builtin, name="builtin")
    if os.environ.get(SWITCH, "") in ("", "0"):
        for entry in importlib.metadata.entry_points(group=GROUP):
            before = manager.get_plugin(entry.name)
            try:
                manager.register(entry.load(), name=entry.name)
                manager.check_pending()
            except Exception as error:  # whatever a stranger's module raises
                _logger.warning("plugin %s cannot be loaded and is skipped: %s", entry.name, error)
                if before is None and manager.has_plugin(entry.name):  # a name already taken stays with its owner
                    manager.unregister(name=entry.name)
    return manager


def list_plugins() -> list[PluginEntry]:
    """Everything there is to choose from, by kind and name; what fails to list itself is logged and skipped."""
    entries = []
    for name, plugin in plugin_manager().list_name_plugin():
        package, version = _origin(name, plugin)
        hooks = tuple(sorted(caller.name for caller in plugin_manager().get_hookcallers(plugin) or ()))
        for kind in KINDS:
            entries += [PluginEntry(kind, found, package, version, hooks) for found in _listed(name, plugin, kind)]
    return sorted(entries, key=lambda entry: (KINDS.index(entry.kind), entry.name))


def make_space(
    name: str,
    units: tuple[str, ...],
    params: tuple[int, ...],
    bounds: tuple[tuple[float, float], ...] = (),
    parts: tuple[tuple[int, int], ...] = (),
    *,
    needed: tuple[tuple[int, ...], ...] = (),
    choices: tuple[tuple[Choice, ...], ...] = (),
    physical: bool = False,
) -> Space:
    """Build a space by name; the hook ``unicuco_make_space`` says what it is built from.

    Raises:
        UnknownNameError: If no plugin knows it.
        PluginError: If a plugin fails, or what it builds lacks a member of a space.
    """
    given = {"units": units, "params": params, "bounds": bounds, "parts": parts, "needed": needed, "choices": choices}
    made: Space = _ask("space", name, "unicuco_make_space", **given, physical=physical)
    members = [member for member in dir(Space) if not member.startswith("_")]
    # Nothing is computed to find out.
    lacking = [member for member in members if inspect.getattr_static(made, member, made) is made]
    if lacking:
        raise PluginError(f"the space {quoted(name)} must have all members of unicuco_plugin.Space, lacks {lacking[0]}")
    return made


def find_traits(name: str) -> SpaceTraits | None:
    """What a plugin says that strategies of its space do to a model; None where none says anything.

    Raises:
        PluginError: If a plugin fails, or its traits are those of another space.
    """
    try:
        found: SpaceTraits | None = plugin_manager().hook.unicuco_space_traits(name=name)
    except Exception as error:
        raise PluginError(f"a plugin failed in unicuco_space_traits({quoted(name)}): {error}") from error
    if found is not None and (not isinstance(found, SpaceTraits) or found.name != name):
        raise PluginError(f"unicuco_space_traits must return a SpaceTraits named {quoted(name)}, got {quoted(found)}")
    return found


def make_objective(name: str, request: ObjectiveRequest) -> Objective:
    """Build an objective by name; raises as ``make_space`` does."""
    made: Objective = _ask("objective", name, "unicuco_make_objective", request=request)
    return made


def make_scalarization(name: str) -> Scalarization:
    """Find a scalarization by name; raises as ``make_space`` does."""
    made: Scalarization = _ask("scalarization", name, "unicuco_make_scalarization")
    return made


def make_peer(name: str) -> Peer:
    """Find a peer by name; raises as ``make_space`` does."""
    made: Peer = _ask("peer", name, "unicuco_make_peer")
    return made


def make_ranking(name: str) -> Ranking:
    """Find a ranking of parts by name; raises as ``make_space`` does."""
    made: Ranking = _ask("ranking", name, "unicuco_make_ranking")
    return made


def make_compensation(name: str) -> Compensation:
    """Find a compensation by name; raises as ``make_space`` does."""
    made: Compensation = _ask("compensation", name, "unicuco_make_compensation")
    return made


def corrects(name: str | None) -> bool:
    """Whether a compensation of that name ever corrects something; raises as ``make_space`` does."""
    return name is not None and make_compensation(name).solve is not None


def _ask(kind: Kind, name: str, hook: str, **arguments: object) -> Any:  # noqa: ANN401 - narrowed by the callers
    try:
        made = getattr(plugin_manager().hook, hook)(name=name, **arguments)
    except UnicucoError:
        raise
    except Exception as error:
        raise PluginError(f"a plugin failed in {hook}({quoted(name)}): {error}") from error
    if made is None:
        known = ", ".join(entry.name for entry in list_plugins() if entry.kind == kind)
        raise UnknownNameError(f"{kind} must be one of {known}; got {quoted(name)}")
    return made


def _listed(name: str, plugin: object, kind: Kind) -> list[str]:
    function = getattr(plugin, "unicuco_list", None)
    if function is None:
        return []
    try:
        found: Iterable[str] = function(kind=kind)
        return sorted(found)
    except Exception as error:  # as above
        _logger.warning("plugin %s cannot list its %s names: %s", name, kind, error)
        return []


def _origin(name: str, plugin: object) -> tuple[str, str]:
    if plugin is builtin:
        return "unicuco-plugin", importlib.metadata.version("unicuco-plugin")
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.name == name and entry.dist is not None:
            return entry.dist.name, entry.dist.version
    return getattr(plugin, "__name__", type(plugin).__name__), ""
