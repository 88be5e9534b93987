"""What candidates of a run are measured with, so that another process can: small, or named by its content."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor

from unicuco_plugin.journal.measuring import RANK
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.tensors.memory import warn
from unicuco_plugin.objectives.executor import Executor, InPlace, Objectives
from unicuco_plugin.objectives.objective import Objective
from unicuco_plugin.objectives.specification import ObjectiveSpec
from unicuco_plugin.payload import Payload
from unicuco_plugin.plugins.objective import Site, build_objective
from unicuco_plugin.training.correcting import find_corrections
from unicuco_plugin.training.source import ModelSource

__all__ = ["Setup", "Workers"]


@dataclass(frozen=True)
class Setup:
    """The objectives of a run, as what they are built from.

    Attributes:
        source: The dense model, where it is.
        specs: Of the objective of each fidelity.
        windows: ``m x L`` token ids of each fidelity.
        payload: What strategies need beyond shares, where they need it.
        correcting: ``m x L`` token ids that corrections are solved from; used where the specification has any.
        batch: The most candidates to measure together.
    """

    source: ModelSource
    specs: Mapping[str, ObjectiveSpec]
    windows: Mapping[str, Tensor]
    payload: Payload | None
    correcting: Tensor
    batch: int

    def open(self, say: Callable[[str], None] = warn) -> Objectives:
        """Load the model, and build the ranking objective on it; the others follow when they are needed.

        Args:
            say: Told when memory has room for fewer candidates at a time.

        Raises:
            ModelMismatchError: If another model is there, or it is another in dtype or device.
            UnicucoError: As ``Site.open`` and ``build_objective`` say.
        """
        spec = self.specs[RANK]
        decoder = find_decoder(self.source.load())
        method = None if spec.compensation is None else spec.compensation.name
        corrections = find_corrections(method, decoder, self.correcting, spec.batch_windows, space=spec.space.name)
        site = Site.open(spec, decoder, payload=self.payload, corrections=corrections)
        objectives = Objectives(
            {name: partial(build_objective, spec, site, self.windows[name]) for name, spec in self.specs.items()}, say
        )
        objectives.make(RANK)
        return objectives

    def execute(
        self,
        workers: "Workers | None",
        here: Mapping[str, Callable[[], Objective]],
        say: Callable[[str], None],
    ) -> AbstractContextManager[Executor]:
        """Have candidates measured by workers, or in this process where there are none.

        Args:
            workers: To start.
            here: Makes the objective of each fidelity in this process.
            say: Told in one line what changes: fewer candidates at a time, other workers.
        """
        if workers is not None:
            return workers.start(self, say)
        return nullcontext(InPlace(Objectives(here, say), self.batch))


class Workers(Protocol):
    """Processes that measure the candidates of runs."""

    def start(self, setup: Setup, say: Callable[[str], None]) -> AbstractContextManager[Executor]:
        """Start them for one run.

        Args:
            setup: What they measure with.
            say: Told in one line when some begin or are lost; called from within ``Executor.wait`` alone.

        Raises:
            EvaluationError: If none can be started; the message says what to do.
        """
        ...
