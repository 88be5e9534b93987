"""Which head groups and neurons stay: what structured pruning hands from a search to a checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import StrategyError, quoted
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.parts.parts import Parts, find_parts
from unicuco_plugin.models.tensors.linears import Linears

__all__ = ["KeptParts", "change_modules"]


@dataclass(frozen=True)
class KeptParts:
    """Parts of a model that stay, and what takes the place of those that go.

    Attributes:
        kept: Module name → indices that stay, ascending: key-value head groups of an attention, neurons of an MLP. A
            module that is absent keeps everything; an empty tuple removes the module.
        biases: Module name → a ``hidden_size`` tensor that is added to the module's output: what the removed parts
            gave on average, ``W_out[:, removed] mean(x_removed)`` (FLAP).
        measured: Whether they are what the strategy's divergence was measured with: a profile's own parts and biases.
    """

    kept: Mapping[str, tuple[int, ...]]
    biases: Mapping[str, Tensor] = field(default_factory=dict)
    measured: bool = field(default=False, compare=False)

    @property
    def removed(self) -> tuple[str, ...]:
        """Modules of which nothing stays, in the mapping's order."""
        return tuple(name for name, indices in self.kept.items() if not indices)

    def check(self, decoder: Decoder) -> None:
        """Compare with the model that it is for.

        Args:
            decoder: The dense model.

        Raises:
            StrategyError: If a name is not an attention or MLP of the model, indices are not ascending integers in
                range, a bias has not the model's hidden size, is not finite or belongs to a module that keeps
                everything, or nothing at all would be left.
            UnsupportedModelError: If the model's modules cannot be split into parts.
        """
        parts = find_parts(decoder)
        for name in (*self.kept, *self.biases):
            if name not in parts:
                first, *_, last = parts
                raise StrategyError(
                    f"kept parts must name attentions and MLPs of this model, {first} to {last}, got {quoted(name)}: "
                    "they are for another model"
                )
        for name, indices in self.kept.items():
            _check_indices(name, indices, parts[name].count)
        for name, bias in self.biases.items():
            if len(self.kept.get(name, range(parts[name].count))) == parts[name].count:
                raise StrategyError(
                    f"biases[{quoted(name)}] must belong to a module that loses parts; it keeps all of them"
                )
            _check_bias(name, bias, decoder.config.hidden_size)
        if all(self.kept.get(name) == () for name in parts):
            raise StrategyError(f"kept parts must leave something, got all {len(parts)} modules removed")


@torch.no_grad()
def change_modules(
    decoder: Decoder, parts: KeptParts, change: Callable[[nn.Module, Parts, tuple[int, ...], Tensor | None], None]
) -> Callable[[], None]:
    """Give every module that loses parts other linears.

    Args:
        decoder: The dense model, changed in place; the linears that it had are not.
        parts: What stays, already checked.
        change: Does it, given the module, its parts, which of them stay, and the bias that stands for the others.

    Returns:
        A function that puts the linears back; calling it again does nothing.
    """
    found, linears = find_parts(decoder), Linears()
    for name, kept in parts.kept.items():
        module = decoder.model.get_submodule(name)
        linears.remember(module)
        change(module, found[name], kept, parts.biases.get(name))
    return linears.restore


def _check_indices(name: str, indices: tuple[int, ...], count: int) -> None:
    if not isinstance(indices, tuple) or any(type(index) is not int for index in indices):
        raise StrategyError(f"kept[{quoted(name)}] must be a tuple of integers, got {quoted(indices, 80)}")
    if list(indices) != sorted(set(indices)):
        raise StrategyError(f"kept[{quoted(name)}] must be ascending without repetition, got {quoted(indices, 80)}")
    if indices and not 0 <= indices[0] <= indices[-1] < count:
        raise StrategyError(f"kept[{quoted(name)}] must be in [0, {count}), got {indices[0]} to {indices[-1]}")


def _check_bias(name: str, bias: Tensor, width: int) -> None:
    if tuple(bias.shape) != (width,):
        raise StrategyError(f"biases[{quoted(name)}] must have shape ({width},), got {tuple(bias.shape)}")
    if not bias.is_floating_point() or not bool(torch.isfinite(bias).all()):
        raise StrategyError(f"biases[{quoted(name)}] must be finite floating-point numbers, got others")
