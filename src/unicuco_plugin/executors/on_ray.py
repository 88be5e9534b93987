"""Workers on Ray: actors on one machine or on a cluster, which Ray starts, places and watches."""

import functools
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import set_num_threads

from unicuco_plugin.errors import EvaluationError, clip
from unicuco_plugin.executors.crew import FINAL, LostError
from unicuco_plugin.executors.measuring import CandidateCrew, Measuring
from unicuco_plugin.journal.measuring import RANK
from unicuco_plugin.objectives.executor import Executor
from unicuco_plugin.training.setup import Setup

__all__ = ["Opening", "RayPool", "RayWorker", "RayWorkers", "Stored", "import_ray"]

# Bytes of shared memory that a cluster of our own has for what goes to all workers: windows and payloads are far less.
_STORE = 2**28
# Kinds of devices that Ray counts as GPUs.
_GPUS = {"cuda", "xpu"}


class Opening(Protocol):
    """What workers need for one kind of work: small, or named by its content; it can be pickled."""

    def open(self) -> Callable[..., Any]:
        """Get ready, in a worker's process; returns what does one thing there.

        Raises:
            ModelMismatchError: If another model is there than the driver's: that ends the run.
            UnicucoError: If it cannot be done there; another worker may do it.
        """
        ...


@dataclass(frozen=True)
class RayWorkers:
    """Workers on Ray: ``Workers`` for ``train_profile``, and what level builds and benchmarks take theirs from.

    Each loads the model from where the run has it, a folder that all machines see or a name on the hub, and does
    what it is given. Results are those of one process with as many threads, to the bit.

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
        with self.at(Measuring(setup), setup.specs[RANK].device) as pool:
            crew = CandidateCrew(pool.hire, self.count, setup.batch, say)
            try:
                yield crew
            finally:
                crew.close()

    @contextmanager
    def at(self, opening: Opening, device: str, store: int = 0) -> Iterator["RayPool"]:
        """Begin workers of one kind, on the cluster or on one that ends with the ``with``.

        Args:
            opening: What they do.
            device: The kind of device that the model is on.
            store: Bytes that travel between processes at a time, beside what all of them are given.

        Raises:
            EvaluationError: If there is no such cluster, or it has no such device to give.
        """
        if device in _GPUS and not self.gpus:
            raise EvaluationError(
                f"gpus of a worker must be above 0 on {device}, got 0: without any, Ray keeps no device for it and all "
                "workers share the first; give --gpus-per-worker, 1 or a fraction"
            )
        with _cluster(self, store) as ray:
            remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus)(_Actor)
            yield RayPool(ray, remote, ray.put(opening), max(math.floor(self.cpus), 1))


class RayPool:
    """Where workers of one kind are hired, and what they share is kept.

    Args:
        ray: The package, connected to a cluster.
        remote: The class of their actors.
        opening: The reference of what they do; it is stored once, for all of them.
        threads: Of each.
    """

    def __init__(self, ray: Any, remote: Any, opening: Any, threads: int) -> None:  # noqa: ANN401 - Ray is an extra
        self._ray, self._remote, self._opening, self._threads = ray, remote, opening, threads

    def hire(self) -> "RayWorker":
        """Begin a worker; the cluster may yet have to find room for it."""
        return RayWorker(self._ray, self._remote.remote(self._opening, self._threads, str(Path.cwd())))

    def keep(self, value: object) -> "Stored":
        """Put something into the object store, for workers that read it, until nobody refers to it any more."""
        return Stored(self._ray.put(value))


@dataclass(frozen=True)
class Stored:
    """Something in Ray's object store, sent to a worker's machine only when it is read there.

    Attributes:
        reference: Ray's.
    """

    reference: Any

    def read(self) -> Any:  # noqa: ANN401 - whatever was kept
        """The thing itself."""
        return import_ray().get(self.reference)


class _Actor:
    """What runs in a worker's process."""

    def __init__(self, opening: Opening, threads: int, folder: str) -> None:
        self._opening, self._threads, self._folder = opening, threads, folder

    def load(self) -> None:
        with suppress(OSError):  # so that relative paths mean what they mean to the driver, where they can
            os.chdir(self._folder)
        set_num_threads(self._threads)
        self._opened = self._opening.open()

    def do(self, *task: Any) -> Any:  # noqa: ANN401
        return self._opened(*task)


class RayWorker:
    """A ``Worker`` that is an actor.

    Args:
        ray: The package.
        actor: The handle of one with the methods ``load`` and ``do``.
    """

    def __init__(self, ray: Any, actor: Any) -> None:  # noqa: ANN401 - Ray is an extra
        self._ray, self._actor = ray, actor

    def load(self) -> None:
        """Wait until the cluster has had room for the actor, and it has loaded its model."""
        self._get(self._actor.load.remote)

    def do(self, *task: Any) -> Any:  # noqa: ANN401
        """See ``Worker``."""
        return self._get(functools.partial(self._actor.do.remote, *task))

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
            if isinstance(error.cause, FINAL):
                raise error.cause from None
            raise LostError(str(error.cause)) from error
        except errors.RayError as error:
            raise LostError(_gist(error)) from error


def _gist(error: Exception) -> str:
    """What an error of Ray says, without the table of what it says it of."""
    lines = [line.strip() for line in str(error).splitlines()]
    if "creation task" in str(error):  # a traceback follows, such as of a package that is not on the worker's machine
        return [line for line in lines if line][-1]
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
        raise EvaluationError("workers on Ray need Ray: pip install 'unicuco-plugin[ray]'") from error
    return ray


@contextmanager
def _cluster(workers: RayWorkers, store: int) -> Iterator[Any]:
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    how: dict[str, Any] = {"address": workers.address}
    if workers.address is None:
        how = {
            "address": "local",
            "num_cpus": max(math.ceil(workers.count * workers.cpus), 1),
            "object_store_memory": _STORE + store,
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
