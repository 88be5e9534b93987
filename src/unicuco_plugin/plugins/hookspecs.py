"""What a plugin can add. Hooks are asked newest plugin first; the first answer that is not None wins."""

from collections.abc import Iterable

import pluggy

from unicuco_plugin.objectives.objective import Objective, ObjectiveRequest
from unicuco_plugin.peers.peer import Peer
from unicuco_plugin.policy.scalarization import Scalarization
from unicuco_plugin.scores.ranking import Ranking
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.traits import SpaceTraits

__all__ = [
    "hookimpl",
    "hookspec",
    "unicuco_list",
    "unicuco_make_objective",
    "unicuco_make_peer",
    "unicuco_make_ranking",
    "unicuco_make_scalarization",
    "unicuco_make_space",
    "unicuco_space_traits",
]

hookspec = pluggy.HookspecMarker("unicuco")
hookimpl = pluggy.HookimplMarker("unicuco")


@hookspec
def unicuco_list(kind: str) -> Iterable[str]:  # type: ignore[empty-body]  # a specification has no body
    """List the names this plugin provides of a kind.

    Kinds are ``space``, ``objective``, ``scalarization``, ``peer`` and ``ranking``.
    Called by ``unicuco plugins`` and for error messages; a name that is not listed still works.
    """


@hookspec(firstresult=True)
def unicuco_make_space(  # noqa: PLR0917 - pluggy passes by name, and nothing that is by name alone
    name: str,
    units: tuple[str, ...],
    params: tuple[int, ...],
    bounds: tuple[tuple[float, float], ...],
    parts: tuple[tuple[int, int], ...],
    needed: tuple[tuple[int, ...], ...],
) -> Space | None:
    """Build the space called ``name`` over a model's units; return None to pass.

    Called when training starts, whenever an objective is built (in the process that has the model), and when a profile
    is loaded; spaces made from equal arguments must be equal. It is given the units' full module names (blocks,
    unless ``unicuco_space_traits`` gives another effect than ``DROP``), their parameters, the least and largest share
    of each, empty where nobody set any, where parts are cut how many equal parts each has and how many of them go
    together, and groups of indices of units: of each one has to stay for the model to generate; empty where any one
    will do. No answer is an ``UnknownNameError``.
    """


@hookspec(firstresult=True)
def unicuco_space_traits(name: str) -> SpaceTraits | None:
    """Say what strategies of the space called ``name`` do to a model; return None to pass.

    Its effect decides how the space is sized, measured, applied and exported: as the built-in space of that effect, and
    over the same units (``DROP``: blocks; ``SILENCE``, ``CUT``: attentions and MLPs; ``ZERO``: blocks, halves of blocks
    or linears). A space that nobody knows the traits of can be searched over blocks with an objective of its own; it is
    neither measured by ``divergence`` nor applied.

    Called whenever a strategy of a space is met that is not built in; the same name must get the same answer.
    """


@hookspec(firstresult=True)
def unicuco_make_objective(name: str, request: ObjectiveRequest) -> Objective | None:
    """Build the objective called ``name`` for one fidelity's windows; return None to pass.

    One that is a ``ReportingObjective``, with a method ``evaluate_reporting``, moves the progress bar within a batch.

    Called once per fidelity, before the first strategy is measured on it, in the process that has the model. No
    answer is an ``UnknownNameError``.
    """


@hookspec(firstresult=True)
def unicuco_make_scalarization(name: str) -> Scalarization | None:
    """Return the scalarization called ``name``; return None to pass.

    Called once when training starts and once when a profile answers its first preference. No answer is an
    ``UnknownNameError``.
    """


@hookspec(firstresult=True)
def unicuco_make_peer(name: str) -> Peer | None:
    """Return the method called ``name`` that others' strategies come from; return None to pass.

    Called once before a comparison or a pruning by that method. No answer is an ``UnknownNameError``.
    """


@hookspec(firstresult=True)
def unicuco_make_ranking(name: str) -> Ranking | None:
    """Return the ranking called ``name`` of the head groups and neurons inside a module; return None to pass.

    Called once before parts are ranked: in training, before a comparison or a structured pruning. No answer is an
    ``UnknownNameError``.
    """
