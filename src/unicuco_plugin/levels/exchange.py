"""Two ways for linears of a dense model to compute for a while with weights of a level database."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unicuco_plugin.levels.database import Database
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.levels.stitch import check_plan, find_linears, realised, swapped
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.levels.stored import round_inputs
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.tensors.storage import read_kept
from unicuco_plugin.schemes import DENSE_BITS, parse_scheme

__all__ = ["Exchange", "Stitching", "Storing"]


class Exchange(Protocol):
    """Gives linears what a plan names for them; those it does not name, or gives nothing (0, None), stay dense."""

    @property
    def decoder(self) -> Decoder:
        """The dense model."""

    @property
    def levels(self) -> Database:
        """The database."""

    @property
    def linears(self) -> Mapping[str, nn.Linear]:
        """Those of the model that the database holds, by full name."""

    def check(self, plan: Mapping[str, Any]) -> None:
        """Refuse a plan that the database cannot give with a :class:`LevelsError`."""

    def inside(self, plan: Mapping[str, Any], decoded_bytes: int) -> AbstractContextManager[None]:
        """Linears as the plan says, until the end of the block; the dense weights are back after it.

        Args:
            plan: Linear → what it gets.
            decoded_bytes: Most bytes of decoded weights that the database keeps.
        """


class Stitching:
    """Exchanges weights for such with a number of zeros: a plan is linear → zeros.

    Args:
        decoder: The dense model that the database was built from.
        levels: The database of sparsities.

    Raises:
        LevelsError: If the database does not fit the model.
    """

    def __init__(self, decoder: Decoder, levels: Levels) -> None:
        self.decoder, self.levels, self.linears = decoder, levels, find_linears(decoder, levels)

    def check(self, plan: Mapping[str, int]) -> None:
        """See :func:`check_plan`."""
        check_plan(self.levels, plan)

    @contextmanager
    def inside(self, plan: Mapping[str, int], decoded_bytes: int) -> Iterator[None]:
        """See :class:`Exchange`."""
        # Outside of inference mode, where a caller may be: decoded levels are kept for others, who may need gradients.
        with torch.inference_mode(False), torch.no_grad():
            weights = {
                name: realised(self.levels, name, self.linears[name].weight.detach(), count, decoded_bytes)
                for name, count in plan.items()
            }
        with swapped(self.linears, weights):
            yield


class Storing:
    """Exchanges weights for those of a scheme, and rounds inputs where it does: a plan is linear → scheme.

    Args:
        decoder: The dense model that the database was built from, in its dtype or a wider one.
        levels: The database of schemes.

    Raises:
        LevelsError: If the database does not fit the model.
    """

    def __init__(self, decoder: Decoder, levels: SchemeLevels) -> None:
        self.decoder, self.levels, self.linears = decoder, levels, find_linears(decoder, levels, wider=True)

    def check(self, plan: Mapping[str, str]) -> None:
        """Refuse a linear that the database lacks, or a scheme that it lacks for a linear."""
        for name, scheme in plan.items():
            self.levels.loss(name, scheme)

    @contextmanager
    def inside(self, plan: Mapping[str, str], decoded_bytes: int) -> Iterator[None]:
        """See :class:`Exchange`."""
        weights = {}
        for name, scheme in plan.items():
            dense = read_kept(self.linears[name], "weight")
            decode = partial(self.levels.decode, name, scheme, dense.device)
            weights[name] = self.levels.decoded.get(name, scheme, dense.device, decode, decoded_bytes).to(dense.dtype)
        with ExitStack() as stack:
            stack.enter_context(swapped(self.linears, weights))
            for name, scheme in plan.items():
                if parse_scheme(scheme).inputs < DENSE_BITS:
                    handle = self.linears[name].register_forward_pre_hook(partial(_round_first, scheme))
                    stack.callback(handle.remove)
            yield


def _round_first(scheme: str, linear: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return (round_inputs(scheme, linear, inputs[0]), *inputs[1:])
