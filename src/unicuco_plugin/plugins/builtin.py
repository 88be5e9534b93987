"""The built-in spaces, objectives, scalarizations, peers, rankings and compensations, registered as any plugin is."""

import importlib
from collections.abc import Callable, Iterable
from functools import partial

from unicuco_plugin.compensation.methods import METHODS, Compensation
from unicuco_plugin.objectives.objective import Objective, ObjectiveRequest
from unicuco_plugin.peers.peer import Peer
from unicuco_plugin.plugins.hookspecs import hookimpl
from unicuco_plugin.policy.scalarization import Scalarization, pbi, tchebycheff, weighted_sum
from unicuco_plugin.schemes import Choice
from unicuco_plugin.scores.ranking import RANKINGS, Ranking
from unicuco_plugin.spaces.compound import CompoundSpace
from unicuco_plugin.spaces.depth import make_depth
from unicuco_plugin.spaces.precision import PrecisionSpace
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.spaces.sparsity import SparsitySpace
from unicuco_plugin.spaces.structured import StructuredSpace
from unicuco_plugin.spaces.sublayer import SublayerSpace
from unicuco_plugin.traits import SPACES, SpaceTraits

__all__ = [
    "unicuco_list",
    "unicuco_make_compensation",
    "unicuco_make_objective",
    "unicuco_make_peer",
    "unicuco_make_ranking",
    "unicuco_make_scalarization",
    "unicuco_make_space",
    "unicuco_space_traits",
]

_SCALARIZATIONS: dict[str, Scalarization] = {
    "weighted_sum": weighted_sum,
    "tchebycheff": tchebycheff,
    "pbi": pbi,
    "pbi_0.1": partial(pbi, xi=0.1),
}
# Module of the room and class; imported when one is asked for, because they need Transformers.
_PEERS = {
    "alphapruning": ("alphapruning", "AlphaPruning"),
    "atp": ("atp", "Atp"),
    "attention_only": ("part_shares", "AttentionOnly"),
    "auto_scheme": ("auto_scheme", "AutoScheme"),
    "cosine_window": ("similarity", "CosineWindow"),
    "dlp": ("layerwise", "Dlp"),
    "evopress": ("evopress", "EvoPress"),
    "flap": ("part_shares", "Flap"),
    "gradient_knapsack": ("bit_shares", "GradientKnapsack"),
    "greedy": ("ranked_drops", "Greedy"),
    "interaction": ("part_shares", "Interaction"),
    "knapsack": ("bit_shares", "Knapsack"),
    "knapsack_narrow": ("bit_shares", "KnapsackNarrow"),
    "knapsack_wide": ("bit_shares", "KnapsackWide"),
    "mlp_only": ("part_shares", "MlpOnly"),
    "owl": ("layerwise", "Owl"),
    "shortened_llama": ("ranked_drops", "ShortenedLlama"),
    "shortgpt": ("similarity", "ShortGpt"),
    "structured_uniform": ("part_shares", "StructuredUniform"),
    "uniform": ("uniform", "Uniform"),
    "uniform_bits": ("bit_shares", "UniformBits"),
    "weight_subcloning": ("similarity", "WeightSubcloning"),
}
_NAMES = {
    "space": ("compound", "depth", "precision", "sparsity", "structured", "sublayer"),
    "objective": ("divergence",),
    "scalarization": tuple(_SCALARIZATIONS),
    "peer": tuple(_PEERS),
    "ranking": tuple(RANKINGS),
    "compensation": tuple(METHODS),
}


@hookimpl
def unicuco_list(kind: str) -> Iterable[str]:
    """Names of the built-ins."""
    return _NAMES.get(kind, ())


@hookimpl
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
    """``compound``, ``depth``, ``precision``, ``sublayer``, ``sparsity`` and ``structured``; see the classes."""
    makers: dict[str, Callable[[], Space]] = {
        "compound": lambda: CompoundSpace(units, params, choices, needed=needed),
        "depth": lambda: make_depth(units, params, needed),
        "precision": lambda: PrecisionSpace(units, params, choices),
        "sparsity": lambda: SparsitySpace(units, params, bounds),
        "structured": lambda: StructuredSpace(units, params, parts),
        "sublayer": lambda: SublayerSpace(units, params, needed, physical=physical),
    }
    return makers[name]() if name in makers else None


@hookimpl
def unicuco_space_traits(name: str) -> SpaceTraits | None:
    """Those of the built-in spaces."""
    return SPACES.get(name)


@hookimpl
def unicuco_make_objective(name: str, request: ObjectiveRequest) -> Objective | None:
    """``divergence``: mean KL per token from the dense model."""
    if name != "divergence":
        return None
    # Here, because it needs Transformers, which answering a request must not wait for.
    from unicuco_plugin.objectives.divergence import DivergenceObjective  # noqa: PLC0415

    return DivergenceObjective(request)


@hookimpl
def unicuco_make_scalarization(name: str) -> Scalarization | None:
    """``weighted_sum`` (Eq. 4), ``tchebycheff`` (Eq. 5), ``pbi`` (Eq. 14, penalty 5) and ``pbi_0.1``."""
    return _SCALARIZATIONS.get(name)


@hookimpl
def unicuco_make_peer(name: str) -> Peer | None:
    """The methods we compare with, at their papers' settings."""
    if name not in _PEERS:
        return None
    module, kind = _PEERS[name]
    made: Peer = getattr(importlib.import_module(f"unicuco_plugin.peers.{module}"), kind)()
    return made


@hookimpl
def unicuco_make_ranking(name: str) -> Ranking | None:
    """``flap`` (the default), ``magnitude``, ``wanda`` and ``taylor``."""
    return RANKINGS.get(name)


@hookimpl
def unicuco_make_compensation(name: str) -> Compensation | None:
    """``none``, ``bias`` (FLAP), ``scale`` (Prune&Comp), ``linear`` (ReplaceMe), ``ridge``, ``sequential``."""
    return METHODS.get(name)
