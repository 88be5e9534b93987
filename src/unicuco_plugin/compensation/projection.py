"""The projection that a correction is folded into: found by name among a block's linears, believed by numbers."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.halves import step_names
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.storage import read_kept, resident

__all__ = ["Projection", "find_projection", "is_multiple"]

_TOKENS = 8
# Of elements that follow, and how far they may be from one factor: rounding of bfloat16 beside a few huge channels.
_SHARE, _WITHIN = 0.9, 0.05
# What is added for a trial, in sizes of the state that it is added to: clear of rounding, and another for each token,
# which a norm behind the projection would take out.
_LEAST, _MOST = 2.0, 64.0


@dataclass(frozen=True)
class Projection:
    """A linear whose output a block adds to its states, times one factor.

    Attributes:
        name: Full name.
        module: The linear.
        scale: That factor.
    """

    name: str
    module: nn.Linear
    scale: float

    @property
    def weight(self) -> Tensor:
        """``d x c`` in float64 where it is kept, the bias as last column."""
        weight = read_kept(self.module, "weight").double()
        if self.module.bias is None:
            return weight
        return torch.cat([weight, read_kept(self.module, "bias").double()[:, None].to(weight.device)], 1)

    def widened(self, *, room: bool) -> Tensor:
        """``weight``, with a column of zeros behind it where there is no bias and may be one.

        Args:
            room: Whether there may.
        """
        weight = self.weight
        if not room or self.module.bias is not None:
            return weight
        return torch.cat([weight, torch.zeros_like(weight[:, :1])], 1)

    def parameters(self, whole: Tensor, *, biased: bool) -> dict[str, Tensor]:
        """What its parameters have to be in their dtype, where ``whole`` is.

        Args:
            whole: ``d x c``, as ``weight``; ``c`` may be smaller, where inputs went.
            biased: Whether the last column is a bias.
        """
        whole = whole.to(self.module.weight.dtype)
        if not biased:
            return {"weight": whole}
        return {"weight": whole[:, :-1].contiguous(), "bias": whole[:, -1].contiguous()}


def is_multiple(change: Tensor, of: Tensor, within: float = _WITHIN) -> float | None:
    """The factor by which one tensor is another's multiple; None where it is none.

    Args:
        change: The first one.
        of: The other.
        within: How far from the factor a quotient may be, as a share of it.
    """
    # A row of zeros, such as the embedding of padding, tells nothing.
    ratios = (change.double() / of.double())[of != 0]
    factor = float(ratios.median())
    near = ((ratios - factor).abs() <= within * abs(factor)).double().mean()
    return factor if factor != 0.0 and float(near) >= _SHARE else None


@torch.no_grad()
def find_projection(runner: BlockRunner, index: int, width: int) -> Projection:
    """Find the last linear of a block whose output is added to the states as it is, or times a constant.

    Args:
        runner: The model's.
        index: The block.
        width: Of its states.

    Raises:
        UnsupportedModelError: If there is none: a norm or a gate stands behind the projection, tokens go to different
            experts, or weights are in no ``nn.Linear``.
    """
    decoder = runner.decoder
    outputs = decoder.family.outputs
    steps = step_names(runner)
    inside = decoder.linears(index * len(decoder.blocks) // len(steps))
    inside = {name: linear for name, linear in inside.items() if name.startswith(f"{steps[index]}.")}
    named = {name: linear for name, linear in inside.items() if name.rpartition(".")[2] in outputs}
    generator = torch.Generator().manual_seed(0)
    states, signs = (torch.randn(1, _TOKENS, width, generator=generator).to(runner.device) for _ in range(2))
    states = states.to(decoder.model.dtype)
    sizes = torch.logspace(math.log2(_LEAST), math.log2(_MOST), _TOKENS, 2.0)[:, None]
    called: dict[str, int] = {}
    hooks = [
        linear.register_forward_hook(
            lambda _, __, output, name=name: called.update({name: called.get(name, 0) + output.numel()})
        )
        for name, linear in named.items()
    ]
    with resident():
        try:
            plain = runner.run(index, states)
        finally:
            for hook in hooks:
                hook.remove()
        size = plain.float().abs()
        noise = (signs.sign().to(size) * sizes.to(size) * (size + size.median())).to(plain)
        for name in reversed([name for name, elements in called.items() if elements == states.numel()]):
            with _added(named[name], noise):
                moved = runner.run(index, states)
            factor = is_multiple(moved.float() - plain.float(), noise)
            if factor is not None:
                return Projection(name, named[name], 1.0 if abs(factor - 1.0) < _WITHIN / 5 else factor)
    own = ", ".join(sorted({name.rpartition(".")[2] for name in named})) or "it has none"
    raise UnsupportedModelError(
        f"{steps[index]}: no linear's output is added to the states as it is ({own}: a norm, a gate or a "
        "choice of experts stands behind it), so no correction can be folded in; leave compensation out"
    )


@contextmanager
def _added(linear: nn.Linear, noise: Tensor) -> Iterator[None]:
    hook = linear.register_forward_hook(lambda _, __, output: output + noise.view_as(output))
    try:
        yield
    finally:
        hook.remove()
