"""Train one small policy for a language model, once; answer any compression request for it in milliseconds.

Importing the package registers ``SparsityProfileModifier`` with llm-compressor, so that recipes can name it. Names are
imported from their modules when they are first used.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

import wrapt

from unicuco_plugin.traits import Effect, SpaceTraits, ask_plugins

if TYPE_CHECKING:
    from unicuco_plugin.answering import Profile, load_profile
    from unicuco_plugin.collection import load_profiles
    from unicuco_plugin.errors import UnicucoError
    from unicuco_plugin.executors.on_ray import RayWorkers
    from unicuco_plugin.executors.solving import LevelWorkers
    from unicuco_plugin.healing.heal import Healed, heal
    from unicuco_plugin.healing.settings import HealingSettings
    from unicuco_plugin.levels.build import build_levels
    from unicuco_plugin.levels.scheme_levels import SchemeLevels
    from unicuco_plugin.levels.settings import LevelSettings
    from unicuco_plugin.levels.store import Levels
    from unicuco_plugin.models.blocks.decoder import find_decoder
    from unicuco_plugin.models.checkpoints.demo import find_smollm2
    from unicuco_plugin.models.loading import load, load_tokenizer
    from unicuco_plugin.modifiers.export.oneshot import prune
    from unicuco_plugin.modifiers.export.result import Export
    from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
    from unicuco_plugin.objectives.divergence import DivergenceObjective
    from unicuco_plugin.objectives.objective import Evaluation, Objective, ObjectiveRequest, ReportingObjective
    from unicuco_plugin.payload import Payload
    from unicuco_plugin.peers.peer import Peer, PeerRequest, PeerResult
    from unicuco_plugin.plugins.hookspecs import hookimpl
    from unicuco_plugin.plugins.manager import plugin_manager
    from unicuco_plugin.progress import Progress
    from unicuco_plugin.pruning import apply_strategy
    from unicuco_plugin.request import Request
    from unicuco_plugin.scores.ranking import Ranking
    from unicuco_plugin.search.settings import PRESETS, Settings
    from unicuco_plugin.spaces.space import Space
    from unicuco_plugin.strategy import Strategy
    from unicuco_plugin.texts.calibration import load_windows
    from unicuco_plugin.training import CalibrationText, ModelSource, UnitOptions, train_profile

    __version__: str

__all__ = [
    "PRESETS",
    "CalibrationText",
    "DivergenceObjective",
    "Effect",
    "Evaluation",
    "Export",
    "Healed",
    "HealingSettings",
    "LevelSettings",
    "LevelWorkers",
    "Levels",
    "ModelSource",
    "Objective",
    "ObjectiveRequest",
    "Payload",
    "Peer",
    "PeerRequest",
    "PeerResult",
    "Profile",
    "Progress",
    "Ranking",
    "RayWorkers",
    "ReportingObjective",
    "Request",
    "SchemeLevels",
    "Settings",
    "Space",
    "SpaceTraits",
    "SparsityProfileModifier",
    "Strategy",
    "UnicucoError",
    "UnitOptions",
    "__version__",
    "apply_strategy",
    "build_levels",
    "find_decoder",
    "find_smollm2",
    "heal",
    "hookimpl",
    "load",
    "load_profile",
    "load_profiles",
    "load_tokenizer",
    "load_windows",
    "plugin_manager",
    "prune",
    "train_profile",
]

_HOMES = {
    "CalibrationText": "training",
    "DivergenceObjective": "objectives.divergence",
    "Evaluation": "objectives.objective",
    "Export": "modifiers.export.result",
    "Healed": "healing.heal",
    "HealingSettings": "healing.settings",
    "LevelSettings": "levels.settings",
    "Levels": "levels.store",
    "LevelWorkers": "executors.solving",
    "ModelSource": "training",
    "Objective": "objectives.objective",
    "ObjectiveRequest": "objectives.objective",
    "PRESETS": "search.settings",
    "Payload": "payload",
    "Peer": "peers.peer",
    "PeerRequest": "peers.peer",
    "PeerResult": "peers.peer",
    "Profile": "answering",
    "Progress": "progress",
    "Ranking": "scores.ranking",
    "RayWorkers": "executors.on_ray",
    "ReportingObjective": "objectives.objective",
    "Request": "request",
    "SchemeLevels": "levels.scheme_levels",
    "Settings": "search.settings",
    "Space": "spaces.space",
    "SparsityProfileModifier": "modifiers.sparsity_profile",
    "Strategy": "strategy",
    "UnicucoError": "errors",
    "UnitOptions": "training",
    "apply_strategy": "pruning",
    "build_levels": "levels.build",
    "find_decoder": "models.blocks.decoder",
    "find_smollm2": "models.checkpoints.demo",
    "heal": "healing.heal",
    "hookimpl": "plugins.hookspecs",
    "load": "models.loading",
    "load_profile": "answering",
    "load_profiles": "collection",
    "load_tokenizer": "models.loading",
    "load_windows": "texts.calibration",
    "plugin_manager": "plugins.manager",
    "prune": "modifiers.export.oneshot",
    "train_profile": "training",
}


def _register(_: object) -> None:
    from unicuco_plugin.modifiers.registration import register  # noqa: PLC0415

    register()


# The toolkit takes seconds to import and a request for a strategy does not need it: the modifier is registered at the
# moment the toolkit has been imported, now or later.
wrapt.register_post_import_hook(_register, "llmcompressor")


def _find_traits(space: str) -> SpaceTraits | None:
    from unicuco_plugin.plugins.manager import find_traits  # noqa: PLC0415

    return find_traits(space)


# Strategies are read where plugins are not known: those of a plugin's space must mean there what they mean elsewhere.
ask_plugins(_find_traits)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Import a public name when it is first used."""
    if name == "__version__":
        return importlib.metadata.version("unicuco-plugin")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
