"""Train one small policy for a language model, once; answer any compression request for it in milliseconds.

Importing the package registers ``SparsityProfileModifier`` with llm-compressor, so that recipes can name it.
"""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from unicuco_plugin.answering import Profile, load_profile
    from unicuco_plugin.models.loading import load
    from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
    from unicuco_plugin.plugins.hookspecs import hookimpl
    from unicuco_plugin.pruning import apply_strategy
    from unicuco_plugin.request import Request
    from unicuco_plugin.strategy import Strategy
    from unicuco_plugin.training import Units, train_profile

__all__ = [
    "Profile",
    "Request",
    "SparsityProfileModifier",
    "Strategy",
    "Units",
    "apply_strategy",
    "hookimpl",
    "load",
    "load_profile",
    "train_profile",
]

_HOMES = {
    "Profile": "answering",
    "Request": "request",
    "SparsityProfileModifier": "modifiers.sparsity_profile",
    "Strategy": "strategy",
    "Units": "training",
    "apply_strategy": "pruning",
    "hookimpl": "plugins.hookspecs",
    "load": "models.loading",
    "load_profile": "answering",
    "train_profile": "training",
}


def _register(_: object) -> None:
    from unicuco_plugin.modifiers.registration import register  # noqa: PLC0415

    register()


# The toolkit takes seconds to import and a request for a strategy does not need it: the modifier is registered at the
# moment the toolkit has been imported, now or later.
wrapt.register_post_import_hook(_register, "llmcompressor")


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
