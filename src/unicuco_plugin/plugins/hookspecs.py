"""What a plugin can add. The newest plugin is asked first; the first answer that is not None wins."""

from collections.abc import Iterable

import pluggy

from unicuco_plugin.compensation.methods import Compensation
from unicuco_plugin.objectives.objective import Objective, ObjectiveRequest
from unicuco_plugin.peers.peer import Peer
from unicuco_plugin.policy.scalarization import Scalarization
from unicuco_plugin.schemes import Choice
from unicuco_plugin.scores.ranking import Ranking
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.traits import SpaceTraits

__all__ = [
    "hookimpl",
    "hookspec",
    "unicuco_list",
    "unicuco_make_compensation",
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
    """List the names of one kind that this plugin provides.

    Kinds are ``space``, ``objective``, ``scalarization``, ``peer``, ``ranking`` and ``compensation``.
    Called for ``unicuco plugins`` and for error messages; a name that is not listed still works.
    """


@hookspec(firstresult=True)
def unicuco_make_space(  # noqa: PLR0917 - pluggy passes by name, and nothing that is by name alone
    name: str,
    units: tuple[str, ...],
    params: tuple[int, ...],
    bounds: tuple[tuple[float, float], ...],
    parts: tuple[tuple[int, int], ...],
    needed: tuple[tuple[int, ...], ...],
    choices: tuple[tuple[Choice, ...], ...],
    physical: bool,
) -> Space | None:
    """Build the space called ``name`` over a model's units; return None to pass.

    Called when training starts, whenever an objective is built (in the process that has the model), and when a profile
    is loaded; spaces made from equal arguments must be equal. If no plugin answers, that is an ``UnknownNameError``.

    Args:
        name: The space's name.
        units: The units' full module names: blocks, unless ``unicuco_space_traits`` gives an effect other than
            ``DROP``.
        params: The units' prunable parameters.
        bounds: The least and largest share of each unit; empty where none were set.
        parts: Where parts are cut, how many equal parts each unit has and how many of them go together.
        needed: Groups of indices of units; one unit of each group has to stay for the model to generate. Empty where
            any unit may go.
        choices: Where units are stored by schemes, how each may be: names, bits of a weight with its scales and bytes
            in a file, from most bits to least; ``dense`` among them.
        physical: Whether what is removed leaves the checkpoint unit by unit: halves of blocks do in one form of
            checkpoint, and are only silenced in the others.

    A plugin's function may leave out any argument that it does not need.
    """


@hookspec(firstresult=True)
def unicuco_space_traits(name: str) -> SpaceTraits | None:
    """Say what strategies of the space called ``name`` do to a model; return None to pass.

    The effect decides how the space is sized, measured, applied and exported: like the built-in space with that
    effect, and over the same units (``DROP``: blocks; ``SILENCE``, ``CUT``: attentions and MLPs; ``ZERO``: blocks,
    halves of blocks or linears; ``STORE``: what a server packs). A space without known traits can be searched over
    blocks with an objective of its own, but is neither measured by ``divergence`` nor applied.

    Effects themselves are ours, and no hook adds one. What an effect does to a model stands in five rooms, which count,
    measure, check and carry out the same change: what is reported is the exported checkpoint's divergence only because
    they agree to the bit. A change of another kind is a contribution (CONTRIBUTING.md, "Add a space"), or is hidden in
    an objective and applied by code of your own.

    Called for every strategy of a space that is not built in; the same name must always get the same answer.
    """


@hookspec(firstresult=True)
def unicuco_make_objective(name: str, request: ObjectiveRequest) -> Objective | None:
    """Build the objective called ``name`` for one fidelity's windows; return None to pass.

    A ``ReportingObjective``, which has a method ``evaluate_reporting``, moves the progress bar within a batch.

    Called once per fidelity, before the first strategy is measured on it, in the process that has the model. If no
    plugin answers, that is an ``UnknownNameError``.
    """


@hookspec(firstresult=True)
def unicuco_make_scalarization(name: str) -> Scalarization | None:
    """Return the scalarization called ``name``; return None to pass.

    Called once when training starts and once when a profile answers its first preference. If no plugin answers, that
    is an ``UnknownNameError``.
    """


@hookspec(firstresult=True)
def unicuco_make_peer(name: str) -> Peer | None:
    """Return the peer called ``name``, a method to compare with; return None to pass.

    Called once before a comparison with, or pruning by, that method. If no plugin answers, that is an
    ``UnknownNameError``.
    """


@hookspec(firstresult=True)
def unicuco_make_ranking(name: str) -> Ranking | None:
    """Return the ranking called ``name``, of head groups and neurons inside a module; return None to pass.

    Called once before parts are ranked: in training, before a comparison and before structured pruning. If no plugin
    answers, that is an ``UnknownNameError``.
    """


@hookspec(firstresult=True)
def unicuco_make_compensation(name: str) -> Compensation | None:
    """Return the compensation called ``name``, which corrects for what was removed; return None to pass.

    Called when a modifier is built, and once more before corrections are solved. If no plugin answers, that is an
    ``UnknownNameError``.
    """
