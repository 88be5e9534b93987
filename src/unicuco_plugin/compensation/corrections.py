"""Corrections of cuts that many candidates share: each is solved once, from the dense model's states."""

from collections.abc import Collection, Hashable, Iterable, Sequence

import torch
from torch import Tensor

from unicuco_plugin.compensation.cache import Cache, Kind
from unicuco_plugin.compensation.corrected import Corrected
from unicuco_plugin.compensation.cut import Crosses, Cut, Widths
from unicuco_plugin.compensation.dense_states import DenseStates
from unicuco_plugin.compensation.methods import Compensation
from unicuco_plugin.compensation.narrowed import Narrowed
from unicuco_plugin.compensation.observed import Between, observe_crosses, observe_cut, observe_here, observe_inputs
from unicuco_plugin.compensation.projection import Projection, find_projection
from unicuco_plugin.compensation.stream import check_stream
from unicuco_plugin.errors import EvaluationError, UnsupportedModelError
from unicuco_plugin.models.blocks.halves import HalfRunner, step_names
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.models.tensors.memory import free_memory, lacks_memory
from unicuco_plugin.models.tensors.sending import sent

__all__ = ["Corrections"]


class Corrections:
    """Corrections by the block before a cut and the block behind it; or by halves, where the runner runs these.

    The states that enter a cut are the dense model's, whatever a candidate has lost before it: a correction so depends
    on two blocks and on text alone, and serves every candidate that has this cut (docs/compensation.md measures it
    beside corrections that are solved on the states of the candidate).

    Args:
        dense: The dense model's states; those of all blocks are kept where many candidates are to come.
        name: Of the method, for whoever is to know what was measured.
        method: What solves a correction.
        cache_bytes: Most bytes to keep in the host's memory, of corrections and of what they are solved from; a quarter
            of what is free by default. What takes much memory for the time that it saves goes first.

    Attributes:
        dense, name: As given.
    """

    def __init__(
        self, dense: DenseStates, name: str, method: Compensation, *, cache_bytes: float | None = None
    ) -> None:
        self.dense, self.name, self._method = dense, name, method
        self._projections: dict[int, Projection] = {}
        self._seen: Kind[int, Sequence[Tensor]] = Kind(_bytes_of)
        self._crosses: Kind[tuple[int, int, bool], Crosses] = Kind(_bytes_of)
        self._widths: Kind[tuple[int, bool], Widths] = Kind(lambda widths: widths.nbytes)
        self._found: Kind[Hashable, Corrected] = Kind(lambda corrected: corrected.nbytes)
        most = free_memory() / 4 if cache_bytes is None else cache_bytes
        self._cache = Cache(most, [self._seen, self._crosses, self._widths, self._found])

    @property
    def corrects(self) -> bool:
        """Whether the method ever corrects something."""
        return self._method.solve is not None

    @property
    def sequential(self) -> bool:
        """Whether :meth:`at` is to be told what the model makes of the text once it is corrected so far."""
        return self._method.sequential

    @torch.no_grad()
    def prepare(self) -> None:
        """Run the dense model now, and not inside a walk, where one block is in memory."""
        self.dense.at(len(step_names(self.dense.runner)))

    @torch.no_grad()
    def check(self, blocks: Sequence[int], removed: Collection[int], *, room: bool = False) -> None:
        """Make sure that corrections can be folded in.

        Args:
            blocks: Before a cut each, in ascending order.
            removed: Blocks that go.
            room: Whether projections without a bias may get one.

        Raises:
            UnsupportedModelError: If they cannot.
        """
        if self._method.stream and isinstance(self.dense.runner, HalfRunner):
            raise UnsupportedModelError(
                f"compensation {self.name or 'scale'} multiplies the states behind blocks, not behind halves: take "
                "ridge or linear, or none"
            )
        if self._method.stream and blocks:
            check_stream(self.dense.runner, blocks[-1], removed)
        elif self.corrects:
            found = [self._projection(index) for index in blocks]
            if self._method.biased and not room and all(one.module.bias is None for one in found):
                raise UnsupportedModelError(
                    f"compensation {self.name or 'bias'} changes biases, and {found[0].name} and others have none, nor "
                    "room for any: take ridge or linear, or none"
                )

    @torch.no_grad()
    def at(self, index: int, following: int, left: Narrowed | None = None, around: Between | None = None) -> Corrected:
        """The block before a cut with its correction, or a half that is narrower, whatever comes behind it.

        Args:
            index: The block.
            following: The next block that stays, or the number of blocks.
            left: What stays of a half, which is to run with this and no bias of its own; None where all of it does.
            around: For a sequential method: states that enter the block in the model corrected so far, and the dense
                model's where ``following`` begins.

        Returns:
            The same bits whenever it is asked; nothing is corrected where the correction is not finite.

        Raises:
            UnsupportedModelError: If it cannot be folded into the block's weights.
        """
        if around is not None:
            return self._solve(index, following, left, around)
        cut = index, following, None if left is None else left.key
        return self._found.find(cut) or self._cache.add(self._found, cut, self._solve(index, following, left))

    def _projection(self, index: int) -> Projection:
        if index not in self._projections:
            self._projections[index] = find_projection(self.dense.runner, index, self.dense.width)
        return self._projections[index]

    def _inputs(self, index: int, projection: Projection) -> Iterable[Tensor]:
        """What the projection of a block is given; a search meets the block before many cuts, one model before one."""
        seen = self._seen.find(index)
        if seen is not None:
            return seen
        given = observe_inputs(self.dense.runner, index, self.dense.at(index), projection)
        if not self.dense.keep:
            return given
        return self._cache.add(self._seen, index, list(given))

    def _between(self, index: int, following: int) -> Between:
        return self.dense.at(index + 1), self.dense.at(following)

    def _observe(
        self, index: int, following: int, projection: Projection | None, *, room: bool = False, narrowing: bool = False
    ) -> Cut:
        inputs: Iterable[Tensor] = () if projection is None else self._inputs(index, projection)
        between = self._between(index, following)
        if projection is None:
            inputs = [states[..., :0] for states in between[0]]
        return observe_cut(self.dense, between, projection, inputs, self._method.weigh, room=room, narrowing=narrowing)

    def _narrowing(self, index: int, following: int, projection: Projection, *, room: bool) -> Widths:
        """What the widths of a half have in common.

        A search meets many of them, and others gone behind it: moments of the inputs are gathered once.
        """
        dense, method = self.dense, self._method
        if not dense.keep:
            cut = self._observe(index, following, projection, room=room, narrowing=True)
            return method.narrowing(cut).before((cut.fit.cross, cut.held.cross))
        widths = self._widths.find((index, room))
        if widths is None:
            widths = method.narrowing(self._observe(index, index + 1, projection, room=room, narrowing=True))
            widths = self._cache.add(self._widths, (index, room), widths.sent("cpu"))
        widths = widths.sent(dense.runner.device)
        if following == index + 1:
            return widths
        crosses = self._crosses.find((index, following, room))
        if crosses is None:
            inputs, between = self._inputs(index, projection), self._between(index, following)
            biased = room or projection.module.bias is not None
            crosses = _sent(observe_crosses(dense, between, inputs, method.weigh, biased=biased), "cpu")
            self._cache.add(self._crosses, (index, following, room), crosses)
        return widths.before(_sent(crosses, dense.runner.device))

    def _solve(self, index: int, following: int, left: Narrowed | None, around: Between | None = None) -> Corrected:
        if self._method.solve is None:
            return Corrected()
        projection = None if self._method.stream else self._projection(index)
        room = left is not None and left.bias is not None
        biased = projection is not None and (room or projection.module.bias is not None)
        if self._method.biased and not biased:
            return Corrected()
        try:
            if around is None and left is not None and projection is not None:
                widths = self._narrowing(index, following, projection, room=room)
                whole = widths.fit(*left.columns(widths.weight, biased=biased))
            else:
                if around is not None and projection is not None:
                    cut = observe_here(self.dense, index, around, projection, self._method.weigh, left=left)
                else:
                    cut = self._observe(index, following, projection)
                correction = self._method.solve(cut)
                if projection is None or correction.change is None:
                    check_finite("the correction", [correction.gain], torch.float64)
                    return Corrected(gain=correction.gain)
                whole = cut.weight + correction.change
            return Corrected.of(projection, whole, biased=biased)
        except EvaluationError as error:
            if lacks_memory(error):
                raise
            return Corrected(finite=False)


def _bytes_of(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _sent(crosses: Crosses, device: torch.device | str) -> Crosses:
    fit, held = (sent(cross, device) for cross in crosses)
    return fit, held
