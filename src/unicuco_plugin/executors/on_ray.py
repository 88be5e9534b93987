"""Workers on Ray: actors on one machine or on a cluster, which Ray starts, places and watches."""

import functools
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, set_num_threads

from unicuco_plugin.errors import EvaluationError, ModelMismatchError, clip
from unicuco_plugin.executors.crew import Crew, LostError
from unicuco_plugin.journal.measuring import RANK
from unicuco_plugin.objectives.executor import Executor, Objectives
from unicuco_plugin.objectives.objective import Evaluation
from unicuco_plugin.training.setup import Setup

__all__ = ["RayWorker", "RayWorkers", "import_ray"]

# Bytes of shared memory that a cluster of our own has for what goes to all workers: windows and payloads are far less.
_STORE = 2**28
# Kinds of devices that Ray counts as GPUs.
_GPUS = {"cuda", "xpu"}


@dataclass(frozen=True)
class RayWorkers:
    """Workers of a training on Ray: ``Workers`` for ``train_profile``.

    Each loads the model from where the run has it, a folder that all machines see or a name on the hub, and measures
    what it is given. Values are those of one process with as many threads, to the bit.

    Attributes:
        address: Of a cluster that runs, such as ``auto`` or ``head:6379``; None starts one on this machine, for
            this run. Where Ray has been started in this process already, that is used.
        count: The most workers. A run begins with the first, and others join as the cluster has room for them.
        gpus: Of each worker, above 0 where the model is on GPUs; a fraction shares one. A worker with several spreads
            the blocks if ``device`` is ``auto``.
        cpus: Of each worker, and its threads.

    Raises:
        EvaluationError: If there are none, or they have no processor.
    """

    address: str | None = None
    count: int = 1
    gpus: float = 0.0
    cpus: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("gpus", 0.0), ("cpus", 0.001)):
            if not getattr(self, name) >= least:
                raise EvaluationError(f"{name} of workers must be at least {least:g}, got {getattr(self, name)}")

    @contextmanager
    def start(self, setup: Setup, say: Callable[[str], None]) -> Iterator[Executor]:
        """See ``Workers``."""
        device = setup.specs[RANK].device
        if device in _GPUS and not self.gpus:
            raise EvaluationError(
                f"gpus of a worker must be above 0 on {device}, got 0: without any, Ray keeps no device for it and all "
                "workers share the first; give --gpus-per-worker, 1 or a fraction"
            )
        with _cluster(self) as ray:
            remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus)(_Actor)
            stored = ray.put(setup)  # once, for all of them
            threads = max(math.floor(self.cpus), 1)
            crew = Crew(lambda: RayWorker(ray, remote.remote(stored, threads)), self.count, setup.batch, say)
            try:
                yield crew
            finally:
                crew.close()


class _Actor:
    """What runs in a worker's process."""

    def __init__(self, setup: Setup, threads: int) -> None:
        self._setup, self._threads = setup, threads

    def load(self) -> None:
        set_num_threads(self._threads)
        self._objectives: Objectives = self._setup.open()

    def measure(self, fidelity: str, X: Tensor) -> list[Evaluation]:
        return self._objectives.measure(fidelity, X)


class RayWorker:
    """A ``Worker`` that is an actor.

    Args:
        ray: The package.
        actor: The handle of one with the methods ``load`` and ``measure``.
    """

    def __init__(self, ray: Any, actor: Any) -> None:  # noqa: ANN401 - Ray is an extra
        self._ray, self._actor = ray, actor

    def load(self) -> None:
        """Wait until the cluster has had room for the actor, and it has loaded its model."""
        self._get(self._actor.load.remote)

    def measure(self, fidelity: str, X: Tensor) -> Sequence[Evaluation]:
        """See ``Worker``."""
        found: Sequence[Evaluation] = self._get(functools.partial(self._actor.measure.remote, fidelity, X))
        return found

    def end(self) -> None:
        """End the actor's process, if the cluster is still there to do it."""
        with suppress(Exception):
            self._ray.kill(self._actor)

    def _get(self, ask: Callable[[], Any]) -> Any:  # noqa: ANN401
        errors = self._ray.exceptions
        try:
            return self._ray.get(ask())
        except errors.RayTaskError as error:
            # All other errors may be the machine's: a full disk, a folder that is not mounted, a broken device.
            if isinstance(error.cause, ModelMismatchError):
                raise error.cause from None
            raise LostError(str(error.cause)) from error
        except errors.RayError as error:
            raise LostError(_gist(error)) from error


def _gist(error: Exception) -> str:
    """What an error of Ray says, without the table of what it says it of."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.split(" ", 1)[0].endswith(":")]
    return " ".join(said) or type(error).__name__


def import_ray() -> Any:  # noqa: ANN401 - an extra
    """Ray, which reports its use to nobody where we start it.

    Raises:
        EvaluationError: If it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise EvaluationError("measuring on Ray needs Ray: pip install 'unicuco-plugin[ray]'") from error
    return ray


@contextmanager
def _cluster(workers: RayWorkers) -> Iterator[Any]:
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    how: dict[str, Any] = {"address": workers.address}
    if workers.address is None:
        how = {
            "address": "local",
            "num_cpus": max(math.ceil(workers.count * workers.cpus), 1),
            "object_store_memory": _STORE,
            "include_dashboard": False,
        }
    try:
        ray.init(**how, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        where = "on this machine" if workers.address is None else f"at {clip(workers.address)}"
        raise EvaluationError(f"no Ray cluster {where}: {clip(str(error), 150)}") from error
    try:
        room = ray.cluster_resources().get("GPU", 0.0)
        if workers.address is None and workers.gpus > room:
            raise EvaluationError(
                f"gpus of a worker must be at most the {room:g} of this machine, got {workers.gpus:g}"
            )
        yield ray
    finally:
        ray.shutdown()
