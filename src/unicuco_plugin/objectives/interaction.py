r"""How much each attention and MLP interacts with the rest of a model: the entropy that its output carries to the end.

A reconstruction. "Let LLM tell what to prune and how much to prune" (ICML 2025) names transfer entropy as the measure,
and has no public text or code; what is here is the Gaussian entropy of its authors' earlier work.

====== ===== ==========================================================================
symbol shape meaning
====== ===== ==========================================================================
F      t x h outputs behind the final norm at ``t`` positions, ``h`` channels
H      scalar ``sum_j log sigma_j(F)``, nats but for a constant of ``h``
TE     d     ``|H(F) - H(F | module masked)|``, a masked module giving zeros
p      d     share removed of each module
n      d     parameters of its parts
====== ===== ==========================================================================
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.models.tensors.memory import letting_go
from unicuco_plugin.objectives.reduced import ReducedWalk
from unicuco_plugin.objectives.room import Room
from unicuco_plugin.spaces.structured import StructuredSpace

__all__ = ["InteractionMeter", "InteractionPath", "assign_ratios", "gaussian_entropy", "measure_path"]

# Measurements on the way to a share, the dense model's among them. A choice: each costs one run per module.
ROUNDS = 4

# Added to every score, in nats: what c / (TE + eps) needs where a module changes nothing.
_EPS = 1e-6
# Deviations below this, in the final norm's unit, count as this: a dead channel has no entropy to lose.
_DEAD = 1e-6
# Halvings of a bracket: more than float64 can tell apart.
_HALVINGS = 200
# A module that is gone has no interactions, and nothing left to divide them by.
_LEFT = 1e-9


def gaussian_entropy(F: Tensor) -> Tensor:
    """``sum_j log sigma_j`` of ``t x h`` outputs, a scalar where they are."""
    return F.double().std(0, correction=0).clamp_min(_DEAD).log().sum()


class InteractionMeter:
    """Measures interactions of all modules of a model, dense or reduced, on fixed windows.

    One walk serves all modules: up to the masked one they share every block.

    Args:
        decoder: The dense model; as it was after every call.
        windows: ``m x L`` token ids.
        batch_windows: Windows that pass a block together.

    Attributes:
        tokens: Evaluation tokens of one call: every position of the model and of it without each module.
    """

    def __init__(self, decoder: Decoder, windows: Tensor, *, batch_windows: int = 16) -> None:
        self._runner = BlockRunner(decoder, windows.shape[1])
        self._walk = ReducedWalk(self._runner, windows, batch_windows=batch_windows)
        self._positions = windows.numel()
        self._room = Room()
        self.tokens = 0

    @torch.inference_mode()
    def measure(self, kept: KeptParts, names: Sequence[str]) -> Tensor:
        """Mask each module in turn.

        Args:
            kept: What the model has lost already.
            names: Modules, by full name.

        Returns:
            ``TE`` of each, float64; 0 for a module that is gone already.

        Raises:
            EvaluationError: If states or an entropy are not finite.
        """
        live = [name for name in names if kept.kept.get(name) != ()]
        # The last module that stays cannot be masked; without it nothing is left, so it is worth the most.
        masked = [_without(kept, name) for name in live] if len(live) > 1 else []
        whole, *parts = self._room.measure(lambda some, _: self._entropies(some), [kept, *masked])
        self.tokens += self._positions * (1 + len(parts))
        check_finite("entropy of the final states", [whole, *parts], self._runner.decoder.model.dtype)
        found = dict(zip(live, (abs(whole - part) for part in parts), strict=False))
        default = {name: float("inf") for name in live[len(masked) :]}
        return torch.tensor([(found | default).get(name, 0.0) for name in names], dtype=torch.float64)

    def _entropies(self, candidates: Sequence[KeptParts]) -> list[float]:
        walk = self._walk.prefixes
        with letting_go(walk.shed):
            finals = walk.finals(self._walk.choices(candidates))
            entropies = [gaussian_entropy(self._runner.normed(final).flatten(0, 1)) for final in finals]
        self._runner.check()
        found: list[float] = torch.stack(entropies).tolist()
        return found


def _without(kept: KeptParts, name: str) -> KeptParts:
    biases = {module: bias for module, bias in kept.biases.items() if module != name}
    return KeptParts({**kept.kept, name: ()}, biases)


def assign_ratios(TE: Tensor, n: Tensor, sparsity: float, least: Tensor | None = None) -> Tensor:
    """Ratios ``p = max(least, min(1, c / (TE + eps)))`` with the ``c`` at which ``sum n p = sparsity * sum n``.

    Args:
        TE: ``d`` interactions, at least 0; what is infinite keeps everything.
        n: ``d`` parameters.
        sparsity: Share of all parameters to remove, in (0, 1).
        least: ``d`` shares that are gone already; their sum must not exceed the budget.

    Returns:
        ``d`` shares in [0, 1] whose weighted mean is the sparsity to 1e-9.

    Source:
        "Block-wise pruning ratio assignment" as reconstructed in docs/structured.md: scaling first and clipping
        afterwards would miss the target.
    """
    least = torch.zeros_like(n) if least is None else least
    inverse = 1.0 / (TE + _EPS)
    low, high = 0.0, (1.0 / inverse[inverse > 0].min()).item()
    p = least
    for _ in range(_HALVINGS):
        c = 0.5 * (low + high)
        p = torch.maximum((c * inverse).clamp_max(1.0), least)
        low, high = (c, high) if (p @ n / n.sum()).item() < sparsity else (low, c)
    return p


@dataclass(frozen=True)
class InteractionPath:
    """Interactions measured as modules shrink, and the ratios that follow from them.

    Attributes:
        space: Over the model.
        gone: ``r x d`` shares that were removed when each round measured, the dense model first.
        TE: ``r x d`` interactions of whole modules: ``TE / (1 - p)`` where a share ``p`` is gone, so that rounds
            compare.
    """

    space: StructuredSpace
    gone: Tensor
    TE: Tensor

    def assign(self, sparsity: float) -> Tensor:
        """A strategy ``d`` of whole steps at a share, by the last round that removed no more.

        Raises:
            RequestError: If nothing would be left.
        """
        rounds = (self.space.sparsity(self.gone) <= sparsity + 1e-9).nonzero()[:, 0]
        last = int(rounds[-1])
        p = assign_ratios(self.TE[last], self.space.params, sparsity, self.gone[last])
        return self.space.spend(p[None], sparsity)[0]


def measure_path(
    space: StructuredSpace, measure: Callable[[Tensor], Tensor], sparsity: float, *, rounds: int = ROUNDS
) -> InteractionPath:
    """Measure interactions in rounds up to a share; round ``i`` sees the model that has lost ``i / rounds`` of it.

    Args:
        space: Over the model.
        measure: From a strategy ``d`` to the interactions ``d`` of the model it leaves.
        sparsity: The largest share that will be asked for, in (0, 1).
        rounds: At least 1.
    """
    d = len(space.units)
    path = InteractionPath(space, torch.empty(0, d, dtype=torch.float64), torch.empty(0, d, dtype=torch.float64))
    gone = torch.zeros(d, dtype=torch.float64)
    for turn in range(rounds):
        if turn:
            gone = path.assign(sparsity * turn / rounds)
        TE = measure(gone) / (1.0 - gone).clamp_min(_LEFT)
        path = InteractionPath(space, torch.cat([path.gone, gone[None]]), torch.cat([path.TE, TE[None]]))
    return path
