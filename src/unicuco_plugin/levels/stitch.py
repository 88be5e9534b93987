"""Puts weights of the level database into a live model, and takes them out again."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import LevelsError, quoted
from unicuco_plugin.levels.database import Database
from unicuco_plugin.levels.realise import realise
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.tensors.storage import exchange_data, exchanged, kept_tensors, read_kept

__all__ = ["Stitcher", "check_plan", "find_linears", "realised", "stitch", "swapped"]

# Decoded levels kept by default: five of SmolLM2's eight, and little beside larger models.
_CACHE_BYTES = 2**30


class Stitcher:
    """Makes a model carry one plan after another; only linears whose count changed are touched.

    The dense weights stay in memory beside the stitched ones and are put back by :meth:`restore` and at the end of a
    ``with`` block, however it ends.

    Args:
        decoder: The dense model that the database was built from (:meth:`Levels.check_model` tells).
        levels: The database.
        cache_bytes: Most bytes of decoded levels that the database keeps while this one adds to them.

    Raises:
        LevelsError: If the model lacks a linear of the database, or its shape or dtype differs.
    """

    def __init__(self, decoder: Decoder, levels: Levels, *, cache_bytes: int = _CACHE_BYTES) -> None:
        self._levels = levels
        self._linears = find_linears(decoder, levels)
        self._dense = {name: read_kept(linear, "weight") for name, linear in self._linears.items()}
        self._counts = dict.fromkeys(self._linears, 0)
        self._cache_bytes = cache_bytes

    @property
    def counts(self) -> dict[str, int]:
        """The plan that the model carries now: zeros asked of every linear of the database."""
        return dict(self._counts)

    # Outside of inference mode, where a caller may be: a parameter must not become a tensor that autograd refuses.
    @torch.inference_mode(False)
    @torch.no_grad()
    def apply(self, plan: Mapping[str, int]) -> tuple[str, ...]:
        """Give every linear the zeros that a plan asks for; those it does not name are dense.

        Args:
            plan: Zeros by the full name of the linear.

        Returns:
            The linears that changed.

        Raises:
            LevelsError: If the plan names a linear that the database lacks, or a count is out of range, before
                anything is changed; or if a file is damaged.
        """
        check_plan(self._levels, plan)
        changed = [name for name, count in self._counts.items() if plan.get(name, 0) != count]
        for name in changed:
            count = plan.get(name, 0)
            dense = self._dense[name]
            weight = realised(self._levels, name, dense, count, self._cache_bytes) if count else dense
            self._counts[name] = count  # first, so that whatever breaks in here is put back
            exchange_data(self._linears[name], "weight", weight)
        return tuple(changed)

    def restore(self) -> None:
        """Put the dense weights back: the same tensors, not copies."""
        for name, linear in self._linears.items():
            if self._counts[name]:
                exchange_data(linear, "weight", self._dense[name])
            self._counts[name] = 0

    def __enter__(self) -> Self:
        """Nothing is changed before a plan is applied."""
        return self

    def __exit__(self, *_: object) -> None:
        """Put the dense weights back."""
        self.restore()


def check_plan(levels: Levels, plan: Mapping[str, int]) -> None:
    """Refuse a plan that a database cannot give.

    Raises:
        LevelsError: If it names a linear that the database lacks, or a count is out of range.
    """
    sizes = levels.sizes
    for name, count in plan.items():
        if name not in sizes:
            raise LevelsError(f"plan names {quoted(name)}, which level database {levels.folder} does not have")
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= sizes[name]:
            raise LevelsError(
                f"plan: {name} must have an integer count of zeros in [0, {sizes[name]}], got {quoted(count)}"
            )


def stitch(decoder: Decoder, levels: Levels, plan: Mapping[str, int]) -> None:
    """Give a model the weights of a plan for good; the dense ones are freed.

    Args:
        decoder: The dense model that the database was built from.
        levels: The database.
        plan: Zeros by the full name of the linear; linears without an entry stay as they are.

    Raises:
        LevelsError: See :class:`Stitcher`; the model is then dense.
    """
    stitcher = Stitcher(decoder, levels, cache_bytes=0)
    try:
        stitcher.apply(plan)
    except BaseException:
        stitcher.restore()
        raise


@contextmanager
def swapped(linears: Mapping[str, nn.Linear], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let linears have other weights until the end of the block; then their own again, the same tensors."""
    with ExitStack() as stack:
        for name, weight in weights.items():
            stack.enter_context(exchanged(linears[name], {"weight": weight}))
        yield


def realised(levels: Levels, name: str, dense: Tensor, count: int, cache_bytes: int) -> Tensor:
    """A linear's weight with a count of zeros, from levels of which the database keeps so many bytes decoded."""
    file = levels.linear(name)

    def decode(level: int) -> Tensor:
        return levels.decoded.get(name, level, dense.device, partial(file.decode, level, dense.device), cache_bytes)

    return realise(file, dense, count, decode)


def find_linears(decoder: Decoder, levels: Database, *, wider: bool = False) -> dict[str, nn.Linear]:
    """The linears of a model that a database holds, by name and in its order.

    Args:
        decoder: Of the model.
        levels: The database.
        wider: Whether the model's dtype may hold the database's numbers and more.

    Raises:
        LevelsError: If the model lacks one, or its shape or dtype differs.
    """
    linears = decoder.all_linears()
    for name, entry in levels.record.linears.items():
        if name not in linears:
            raise LevelsError(f"level database {levels.folder} has {name}, the model has no linear of that name")
        with kept_tensors():
            weight = linears[name].weight
        shape, dtype = tuple(weight.shape), str(weight.dtype).removeprefix("torch.")
        fits = wider and torch.promote_types(weight.dtype, levels.record.torch_dtype) == weight.dtype
        if shape != entry.shape or not (fits or dtype == levels.record.dtype):
            raise LevelsError(
                f"level database {levels.folder}: {name} is {entry.shape} in {levels.record.dtype} there, "
                f"{shape} in {dtype} in the model; load the model in {levels.record.dtype} (--dtype), or build another"
            )
    return {name: linears[name] for name in levels.record.expected}
