"""One linear quantised in all schemes, in one GPTQ sweep over its columns; notation and sums as in :mod:`.sweep`.

E is the number of schemes, S the scales and Z the zero points, by column as the weights are. The rule for column i is
the toolkit's: ``c_i = round(clamp(w_i / S_i + Z_i))``, ``x_i = (w_i - S_i (c_i - Z_i)) / U_ii``. Scales come from the
dense weight, before any column is quantised, so the order of columns is free and one factor serves every scheme.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy, QuantizationType
from compressed_tensors.quantization.quant_args import round_to_quantized_type_args
from compressed_tensors.quantization.utils import calculate_qparams, calculate_range, generate_gparam
from torch import Tensor

from unicuco_plugin.levels.sweep import Factor, check_width, sweep_block
from unicuco_plugin.levels.toolkit_scheme import as_toolkit
from unicuco_plugin.schemes import Scheme

__all__ = ["Grid", "Quantised", "find_grid", "solve_schemes"]

_Value = TypeVar("_Value")
_BYTE = 8


@dataclass(frozen=True)
class Grid:
    """Where the codes of one scheme stand for a weight of ``R x C`` in G groups of columns.

    Attributes:
        scale: ``R x G``, in the weight's dtype, or in float32 where there is a scale of scales.
        zero_point: ``R x G`` integers.
        global_scale: What the scales are divided by; None in most schemes.
    """

    scale: Tensor
    zero_point: Tensor
    global_scale: Tensor | None = None


@dataclass(frozen=True)
class Quantised:
    """A linear in one scheme.

    Attributes:
        scheme: Which.
        codes: ``R x C`` int8 or float8, or float32 numbers of four bits.
        grid: What they stand for.
        loss: The toolkit's reconstruction loss, a number on the weight's device.
    """

    scheme: Scheme
    codes: Tensor
    grid: Grid
    loss: Tensor


def find_grid(W: Tensor, scheme: Scheme, largest: Tensor) -> Grid:
    """Scales and zero points from the least and the largest weight of each group, as the toolkit's default observer.

    Args:
        W: ``R x C`` dense weight.
        scheme: With a group that divides C.
        largest: The largest magnitude in all linears that a server fuses with this one, of the weight's dtype: they
            share one scale of scales.
    """
    arguments = as_toolkit(scheme).weights
    groups = W.unflatten(1, (-1, scheme.group or W.shape[1]))
    overall = None
    if arguments.strategy == QuantizationStrategy.TENSOR_GROUP:
        overall = generate_gparam(-largest.view(1), largest.view(1))
    scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments, overall)
    return Grid(scale, zero_point, overall)


@torch.no_grad()
def solve_schemes(
    W: Tensor, factor: Factor, schemes: Sequence[Scheme], *, largest: Tensor | None = None, block_size: int = 128
) -> list[Quantised]:
    """Quantise one linear in all schemes; each is what the toolkit's ``quantize_weight`` gives, to rounding.

    Rounding matters where a weight stands in the middle between two codes to the last digits; what follows in its row
    then adapts to another error.

    Args:
        W: ``R x C`` dense weight; not changed.
        factor: Of its inputs' Hessian, on the same device.
        schemes: With groups that divide C.
        largest: See :func:`find_grid`; by default that of ``W``.
        block_size: Columns between two products of matrices.

    Returns:
        One for each scheme, in their order.

    Raises:
        LevelsError: If the factor is for another number of columns.
    """
    rows, columns = W.shape
    check_width(columns, factor)
    U = factor.U
    order = torch.arange(columns, device=W.device) if factor.order is None else factor.order
    largest = W.abs().max() if largest is None else largest
    grids = [find_grid(W, scheme, largest) for scheme in schemes]
    lanes = [_Lane.of(scheme, grid, columns) for scheme, grid in zip(schemes, grids, strict=True)]
    dense = W.t()[order].float()
    dense.masked_fill_(factor.dead[:, None], 0)
    X = dense.new_empty((columns, len(lanes) * rows))
    codes = [W.new_empty((columns, rows), dtype=lane.dtype) for lane in lanes]
    losses = dense.new_zeros(len(lanes))
    for start in range(0, columns, block_size):
        end = min(start + block_size, columns)
        w, x = dense[start:end].repeat(1, len(lanes)), X[start:end]
        if start:
            w.addmm_(U[:start, start:end].t(), X[:start], alpha=-1)
        rule = _Rule(w, x, U.diagonal()[start:end], lanes, order[start:end])
        sweep_block(w, U[start:end, start:end], x, rule)
        losses += x.view(len(w), len(lanes), rows).square().sum((0, 2))
        for done, part in zip(codes, rule.codes.split(rows, dim=1), strict=True):
            done[order[start:end]] = part.to(done.dtype)
    return [
        Quantised(scheme, done.t().contiguous(), grid, loss / 2)
        for scheme, done, grid, loss in zip(schemes, codes, grids, losses, strict=True)
    ]


@dataclass(frozen=True)
class _Lane:
    """The rows of one scheme.

    Attributes:
        arguments: The scheme's, as compressed-tensors has them.
        scale, zero_point: ``G x R`` float32; no zero point where the scheme is symmetric.
        group: Columns of a group.
        rounded: The dtype in which a code times its scale is rounded; None where it is not.
    """

    arguments: QuantizationArgs
    scale: Tensor
    zero_point: Tensor | None
    group: int
    rounded: torch.dtype | None

    @classmethod
    def of(cls, scheme: Scheme, grid: Grid, columns: int) -> "_Lane":
        """Lay out one scheme by columns."""
        scale = grid.scale if grid.global_scale is None else grid.scale / grid.global_scale
        return cls(
            arguments=as_toolkit(scheme).weights,
            scale=scale.t().float().contiguous(),
            zero_point=None if scheme.symmetric else grid.zero_point.t().float().contiguous(),
            group=scheme.group or columns,
            rounded=None if scale.dtype == torch.float32 else scale.dtype,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of stored codes; numbers of four bits have none of their own."""
        four = self.arguments.type == QuantizationType.FLOAT and self.arguments.num_bits < _BYTE
        return torch.float32 if four else self.arguments.pytorch_dtype()

    def of_columns(self, parameter: Tensor | None, columns: Tensor) -> Tensor:
        """A parameter of each of K columns: ``K x R``, zeros where there is none."""
        if parameter is None:
            return self.scale.new_zeros((len(columns), self.scale.shape[1]))
        return parameter[columns // self.group]


class _Rule:
    """Quantises the columns of a block one by one, all lanes side by side."""

    def __init__(self, w: Tensor, X: Tensor, diagonal: Tensor, lanes: Sequence[_Lane], columns: Tensor) -> None:
        self._w, self._X, self._diagonal = w, X, diagonal
        self.codes = torch.empty_like(w)
        self._scales = torch.cat([lane.of_columns(lane.scale, columns) for lane in lanes], 1)
        self._zeros = None
        if any(lane.zero_point is not None for lane in lanes):
            self._zeros = torch.cat([lane.of_columns(lane.zero_point, columns) for lane in lanes], 1)
        rows = w.shape[1] // len(lanes)
        limits = torch.stack([torch.stack(calculate_range(lane.arguments, w.device)) for lane in lanes])
        self._low, self._high = limits.to(w.dtype).repeat_interleave(rows, 0).unbind(1)
        # Neighbours that are rounded in one way are rounded together.
        self._codings = _runs(
            [None if lane.arguments.type == QuantizationType.INT else n for n, lane in enumerate(lanes)], rows
        )
        self._roundings = _runs([lane.rounded for lane in lanes], rows)
        self._lanes = lanes

    def __call__(self, i: int) -> None:
        """Write the codes and the errors of one column whose weights are final."""
        w, c, q, S = self._w[i], self.codes[i], self._X[i], self._scales[i]
        torch.div(w, S, out=c)
        if self._zeros is not None:
            c += self._zeros[i]
        torch.clamp(c, self._low, self._high, out=c)
        for part, lane in self._codings:
            if lane is None:
                c[part].round_()
            else:
                arguments = self._lanes[lane].arguments
                c[part] = round_to_quantized_type_args(c[part], arguments, *calculate_range(arguments, c.device))
        q.copy_(c)
        if self._zeros is not None:
            q -= self._zeros[i]
        q *= S
        for part, dtype in self._roundings:
            if dtype is not None:
                q[part] = q[part].to(dtype)
        torch.sub(w, q, out=q)
        q /= self._diagonal[i]


def _runs(values: Sequence[_Value], rows: int) -> list[tuple[slice, _Value]]:
    """Slices of the rows of neighbours that have equal values."""
    runs, start = [], 0
    for value, same in groupby(values):
        end = start + rows * len(list(same))
        runs.append((slice(start, end), value))
        start = end
    return runs
