"""Linears of one block after another, solved where the model is."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from torch import Tensor

from unicuco_plugin.errors import ModelMismatchError
from unicuco_plugin.levels.gather import Hessians, gather_hessians
from unicuco_plugin.levels.kinds import kind_of
from unicuco_plugin.levels.record import LevelsRecord, LinearEntry
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.levels.sweep import Factor, factor_hessian
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.memory import Fitting, letting_go

__all__ = ["BlockSolver", "calibrating", "check_model", "say_singular", "say_unreached", "weights_dtype"]


class BlockSolver:
    """Solves linears of the block that was entered last; holds its Hessians, or their factors, one for one.

    Args:
        runner: Of the dense model, whose experts are linears.
        settings: Of the database.
        fitting: How many windows pass a block together.
        tell: Told what is done, and what there is to say of it.
        shed: Called when memory is full: frees what need not be held.
    """

    def __init__(
        self,
        runner: BlockRunner,
        settings: LevelSettings,
        fitting: Fitting,
        tell: Callable[[str, str], None] = lambda _stage, _message: None,
        shed: Callable[[], None] = lambda: None,
    ) -> None:
        self._runner, self._settings, self._fitting, self._tell, self._shed = runner, settings, fitting, tell, shed
        self._kind = kind_of(settings)
        self.alone = Fitting(1, ("linear", "linears are solved"), "the number of levels, or build on the CPU")
        self._index = 0
        self._hessians = Hessians()
        self._factors: dict[str, Factor] = {}
        self._wanted: set[str] = set()

    def enter(self, index: int, wanted: Iterable[str], states: Tensor) -> Tensor:
        """Sum the Hessians of a block.

        Args:
            index: Of the block.
            wanted: The linears that may be solved.
            states: ``m x L x hidden`` states that enter it.

        Returns:
            The ``m x L x hidden`` states that leave it dense.

        Raises:
            CalibrationError: If no token reached linears that hold more than a few of its weights.
            EvaluationError: If states or a Hessian are not finite, or memory has no room for one window.
        """
        self._tell(f"calibrating {self._runner.decoder.block_names[index]}", "")
        self._index, self._wanted = index, set(wanted)
        self._hessians, self._factors = Hessians(), {}
        self._hessians, leaving = self._fitting(partial(gather_hessians, self._runner, index, states))
        for leader in list(self._hessians.sums):
            if not self._wanted & set(self._group(leader)):
                del self._hessians.sums[leader]
        return leaving

    @property
    def reached(self) -> list[str]:
        """The wanted linears that have a Hessian, in the order in which they ran, one Hessian after another."""
        return [name for leader in self._hessians.sums for name in self._group(leader) if name in self._wanted]

    def solve(self, name: str) -> Callable[[Path], LinearEntry]:
        """Solve one of the linears that were reached, once.

        Returns:
            What packs its levels and writes them into a database's folder.

        Raises:
            EvaluationError: If memory has no room for it.
        """
        leader = self._hessians.leaders[name]
        group = self._group(leader)
        if leader not in self._factors:
            self._tell(f"factoring {name}", "")
            H, _ = self._hessians.sums.pop(leader)
            self._factors[leader] = self.alone(partial(self._factor, H))
            del H
        self._tell(f"solving {name}", "")
        linears = self._runner.decoder.linears(self._index)
        weights = {other: linears[other].weight.detach() for other in group}
        write = self.alone(partial(self._make, name, weights, self._factors[leader]))
        invertible = self._factors[leader].invertible
        self._wanted.discard(name)
        if not self._wanted & set(group):
            del self._factors[leader]
        self._tell(f"solved {name}", "" if invertible else say_singular(name, self._settings))
        return write

    def _group(self, leader: str) -> list[str]:
        return [name for name, first in self._hessians.leaders.items() if first == leader]

    def _factor(self, H: Tensor, _: int = 1) -> Factor:
        return factor_hessian(H, self._settings.damping, largest_first=self._settings.actorder == "static")

    def _make(self, name: str, weights: dict[str, Tensor], factor: Factor, _: int = 1) -> Callable[[Path], LinearEntry]:
        with letting_go(self._shed):
            return self._kind.solve(name, weights, factor)


def say_singular(name: str, settings: LevelSettings) -> str:
    """What there is to say of a linear whose Hessian has no inverse."""
    return f"{name}: its Hessian cannot be inverted, so it is {kind_of(settings).fallback}; give more windows"


def say_unreached(name: str) -> str:
    """What there is to say of a linear that no token reached."""
    return f"{name}: no token reached it, so it stays dense and has no levels"


def calibrating(settings: LevelSettings, tell: Callable[[str, str], None]) -> Fitting:
    """How many windows of a build pass a block together; ``tell`` hears of it when there are fewer."""
    return Fitting(settings.batch_windows, say=lambda text: tell("calibrating", text))


def weights_dtype(decoder: Decoder) -> str:
    """The dtype of a model's linears, as records name it."""
    return str(next(iter(decoder.linears(0).values())).weight.dtype).removeprefix("torch.")


def check_model(decoder: Decoder, record: LevelsRecord) -> None:
    """Refuse a model, of which experts are linears, that is not the one of a build.

    Raises:
        ModelMismatchError: If it is another, or of another dtype, or on another kind of device.
    """
    model = decoder.model
    for what, wanted, found in (
        ("of the model with fingerprint", record.model.fingerprint, str(fingerprint(model))),
        ("of weights in", record.dtype, weights_dtype(decoder)),
        ("solved on", record.device, model.device.type),
    ):
        if wanted != found:
            raise ModelMismatchError(f"the level database is {what} {wanted}, got {found}: load the build's own alike")
