"""A plan held against the weights, at the moment when the pass that carries it out has ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from llmcompressor.core import Event, State
from llmcompressor.modifiers import Modifier
from loguru import logger
from pydantic import PrivateAttr
from torch import nn
from torch.utils.hooks import RemovableHandle

from unicuco_plugin.errors import ExportError, clip, listed
from unicuco_plugin.levels.linear import SAME_WIDTH
from unicuco_plugin.models.tensors.linears import FEW

__all__ = ["PlanCheck", "PlannedLinear", "count_zeros"]


@dataclass(frozen=True)
class PlannedLinear:
    """One linear that is watched, in weights.

    Attributes:
        module: The linear itself; dropping blocks changes its name.
        planned: Zeros it shall have: 0 for a linear without a plan.
        slack: How many fewer or more still pass.
        before: Zeros it had in the dense model.
    """

    module: nn.Linear
    planned: int
    slack: int
    before: int


class PlanCheck(Modifier):
    """Counts zeros right after the modifier before it in the recipe, and raises where they are not the plan's.

    The sparsity handler puts it behind the modifier it fills and takes it out of the recipe again: a later modifier
    of the same recipe (GPTQ) may fill zeros, which is no fault of the pass.

    Lifecycle:

    - on_sequential_epoch_end
        - count the zeros of the linears that the pass has just left
    - on_calibration_end
        - count what is left; compare all with the plan
    """

    requires_calibration_data: bool = False

    _linears: Mapping[str, PlannedLinear] = PrivateAttr(default_factory=dict)
    _engine: str = PrivateAttr(default="")
    _counts: dict[str, int] = PrivateAttr(default_factory=dict)
    _reached: set[str] = PrivateAttr(default_factory=set)
    _hooks: list[RemovableHandle] = PrivateAttr(default_factory=list)

    @classmethod
    def of(cls, linears: Mapping[str, PlannedLinear], engine: str) -> "PlanCheck":
        """Watch linears, by their full names, that a modifier of the name ``engine`` is about to prune."""
        check = cls()
        check._linears, check._engine = linears, engine
        for name, linear in linears.items():
            check._hooks.append(linear.module.register_forward_hook(partial(check._reach, name)))
        return check

    def _reach(self, name: str, *_: object) -> None:
        self._reached.add(name)

    def forget(self) -> None:
        """Take the hooks off the linears; calling it again does nothing."""
        while self._hooks:
            self._hooks.pop().remove()

    @property
    def counts(self) -> Mapping[str, int]:
        """Zeros of every watched linear after the pass."""
        return self._counts

    def on_initialize(self, state: State, **kwargs: Any) -> bool:  # noqa: ANN401 - the host's signature
        """Nothing to prepare."""
        return True

    def on_sequential_epoch_end(
        self,
        state: State,
        event: Event,
        modules: list[nn.Module] | None = None,
        **kwargs: Any,  # noqa: ANN401 - the host's signature
    ) -> None:
        """Count in the modules that were calibrated, all of them where the toolkit does not say which."""
        seen = None if modules is None else {id(module) for module in modules}
        self._count(name for name, linear in self._linears.items() if seen is None or id(linear.module) in seen)

    def on_calibration_end(self, state: State, event: Event, **kwargs: Any) -> None:  # noqa: ANN401 - the host's
        """Compare with the plan.

        Raises:
            ExportError: If a linear is not within its slack of the plan.
        """
        self.verify()

    def verify(self) -> None:
        """Count what was not counted yet, and compare all with the plan.

        Raises:
            ExportError: If a linear is not within its slack of the plan; the message names the worst.
        """
        self._count(name for name in self._linears if name not in self._counts)
        wrong = [name for name in self._linears if self._excess(name)]
        if not wrong:
            return
        planned = [name for name, linear in self._linears.items() if linear.planned]
        idle = [name for name in planned if self._counts[name] <= self._linears[name].before]
        unreached = [name for name in idle if name in wrong and name not in self._reached]
        if unreached and len(idle) < len(planned):
            self._tell_of(unreached, planned)
            wrong = [name for name in wrong if name not in unreached]
            if not wrong:
                return
        if len(idle) == len(planned):
            raise ExportError(
                f"{self._engine} zeroed nothing of what the strategy plans for {len(planned)} linears: it saw no "
                "calibration text (pipeline 'datafree' shows it none)"
            )
        wrong.sort(key=lambda name: abs(self._excess(name)) / self._linears[name].module.weight.numel(), reverse=True)
        told = listed([self._explain(name) for name in wrong], between="; ", rest="; and {} more")
        hint = "; inputs that are zero in all calibration text zero whole columns" if self._excess(wrong[0]) > 0 else ""
        raise ExportError(f"{self._engine} did not carry out the plan: {told}{hint}")

    def _tell_of(self, unreached: list[str], planned: list[str]) -> None:
        """Linears that no token reached stay dense, as the toolkit leaves them, if they are few."""
        lost, whole = (
            sum(self._linears[name].module.weight.numel() for name in names) for names in (unreached, planned)
        )
        told = listed(unreached, rest=" and {} more")
        if lost > FEW * whole:
            raise ExportError(
                f"no calibration token reached {clip(told, 150)}, {lost:,} of {whole:,} planned weights, so "
                f"{self._engine} left them dense; give more windows (--samples), or ignore them in training"
            )
        logger.warning(
            f"SparsityProfileModifier: no calibration token reached {told}, {lost:,} of {whole:,} planned weights; "
            "they stay dense"
        )

    def _count(self, names: Any) -> None:  # noqa: ANN401 - any iterable of names
        self._counts |= {name: count_zeros(self._linears[name].module) for name in names}

    def _excess(self, name: str) -> int:
        """Weights too many (positive) or too few; zeros of the dense model may come on top of the plan."""
        linear, count = self._linears[name], self._counts[name]
        return max(count - linear.planned - linear.slack - linear.before, 0) + min(
            count - linear.planned + linear.slack, 0
        )

    def _explain(self, name: str) -> str:
        linear = self._linears[name]
        return (
            f"{name} has {self._counts[name]:,} zeros of {linear.module.weight.numel():,} weights, expected "
            f"{linear.planned:,} ± {linear.slack:,}"
        )


@torch.no_grad()
def count_zeros(linear: nn.Linear) -> int:
    """How many weights of a linear are zero, ``-0.0`` included."""
    weight = linear.weight.detach()
    if weight.device.type != "cpu" or weight.itemsize not in SAME_WIDTH:
        return int(weight.numel() - torch.count_nonzero(weight))
    # On the CPU PyTorch takes a hundred times as long to count as NumPy does. Shifted, a zero has no sign.
    bits = weight.view(SAME_WIDTH[weight.itemsize]) << 1
    return int(weight.numel() - np.count_nonzero(bits.numpy()))
