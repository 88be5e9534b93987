"""What a peer, somebody else's method, is asked and returns: from a model and a budget to a strategy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

from unicuco_plugin.errors import RequestError
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.objectives.room import Room
from unicuco_plugin.progress import Progress
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.traits import traits_of

if TYPE_CHECKING:  # plugins are listed without waiting for Transformers
    from unicuco_plugin.levels.scheme_levels import SchemeLevels
    from unicuco_plugin.levels.store import Levels
    from unicuco_plugin.models.blocks.decoder import Decoder

__all__ = ["OPTIONAL", "Peer", "PeerRequest", "PeerResult", "Setting", "ask_peer", "choose_space", "room_for"]

Setting = Literal["official", "super_fast"]
# Fields of a request that only some peers read.
OPTIONAL = frozenset({"windows", "levels", "seed", "setting", "token_budget", "journal"})


def _ignore(_: Progress) -> None:
    pass


@dataclass(frozen=True)
class PeerRequest:
    """What a peer works from.

    Attributes:
        decoder: The dense model on its device; a peer leaves it as it was.
        windows: ``m x L`` token ids to calibrate on; searches draw their minibatches from them. ``m`` may be 0 for a
            peer that does not take them.
        sparsity: Share of the prunable weights to remove (of all blocks' parameters for ``depth``; of 16 bits for
            ``precision``, whose mean bits are ``16 (1 - sparsity)``), in (0, 1).
        space: ``sparsity``, ``depth``, ``sublayer``, ``structured`` or ``precision``, for a peer that serves several;
            None means its first.
        levels: The level database of the model, for peers whose candidates are made from one.
        seed: Decides everything that is random.
        setting: For peers that have several: ``official``, or ``super_fast`` with fewer offspring on fewer tokens.
        token_budget: The most evaluation tokens that EvoPress may spend; it stops before it would exceed them.
        journal: Where EvoPress and greedy keep their steps, to resume from after a kill; None keeps none.
        progress: Called before and after every step.
        batch_windows: Windows run through a block together.
    """

    decoder: "Decoder"
    windows: Tensor
    sparsity: float
    space: str | None = None
    levels: "Levels | SchemeLevels | None" = None
    seed: int = 0
    setting: Setting = "official"
    token_budget: int | None = None
    journal: Path | None = None
    progress: Callable[[Progress], None] = _ignore
    batch_windows: int = 16

    def __post_init__(self) -> None:
        if not 0.0 < self.sparsity < 1.0:
            if self.space is not None and traits_of(self.space).stores:
                raise RequestError(f"bits must be in (0, 16), got {DENSE_BITS * (1.0 - self.sparsity):.6g}")
            raise RequestError(f"sparsity must be in (0, 1), got {self.sparsity}")
        if self.windows.dim() != 2:
            raise RequestError(f"windows must be m x L token ids, got shape {tuple(self.windows.shape)}")


@dataclass(frozen=True)
class PeerResult:
    """A strategy and what it cost to find.

    Attributes:
        space: The strategy's space.
        units: Unit name → share removed in (0, 1], or the name of its scheme; units that lose nothing are not listed.
        sparsity: Share removed of all prunable weights (of all blocks' parameters for ``depth`` and ``sublayer``).
        tokens: Evaluation tokens: positions scored over all candidates; for peers that only look at the dense model,
            the positions it was run on.
        seconds: Wall time, over all runs of a resumed search.
        details: What the method found along the way, as plain JSON data.
    """

    space: str
    units: dict[str, Any]
    sparsity: float
    tokens: int
    seconds: float
    details: Mapping[str, object] = field(default_factory=dict)


class Peer(Protocol):
    """A method that answers one request with one strategy; everything it does is determined by the request."""

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces whose strategies it returns, the usual one first."""
        ...

    @property
    def takes(self) -> frozenset[str]:
        """Which of the ``OPTIONAL`` fields of a request it reads; the caller refuses others that are set."""
        ...

    @property
    def serves_all(self) -> bool:
        """Whether what it finds for one sparsity, such as a ranking or a score, answers every other one too."""
        ...

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Find a strategy.

        Raises:
            RequestError: If it does not serve the space, cannot meet the sparsity, or lacks something it needs.
        """
        ...


def room_for(request: PeerRequest) -> Room:
    """What measures a peer's candidates, as many at a time as there is memory for; the request is told of fewer."""
    return Room(partial(_say, request))


def ask_peer(peer: Peer, request: PeerRequest) -> PeerResult:
    """Ask a peer; it begins anew with half as many windows at a time whenever memory is full.

    Raises:
        EvaluationError: If one window alone does not fit; the message says what to lower.
        RequestError: See :class:`Peer`.
    """
    most = request.batch_windows if "windows" in peer.takes else 1
    fitting = Fitting(most, say=partial(_say, request))
    return fitting(lambda size: peer(replace(request, batch_windows=size)))


def _say(request: PeerRequest, text: str) -> None:
    request.progress(Progress("measuring", 0, 1, message=text))


def choose_space(peer: Peer, request: PeerRequest) -> str:
    """The space a request asks a peer for.

    Raises:
        RequestError: If the peer does not serve it, or reads calibration windows and gets none.
    """
    wanted = request.space or peer.spaces[0]
    if wanted not in peer.spaces:
        name = type(peer).__name__
        raise RequestError(f"space must be one of {', '.join(peer.spaces)} for {name}, got {wanted!r}")
    if "windows" in peer.takes and request.windows.numel() == 0:
        shape = tuple(request.windows.shape)
        raise RequestError(f"windows must be m x L token ids, at least one, got shape {shape}")
    return wanted
