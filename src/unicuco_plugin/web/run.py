"""The service as processes: one, or several that share a port."""

import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead
from uvicorn import Config, Server
from uvicorn.supervisors import Multiprocess

from unicuco_plugin.errors import UnicucoError
from unicuco_plugin.web.connection import HEAD_SECONDS, TimedProtocol

__all__ = ["ServiceError", "run_service"]

# Kept by ``web/metrics.py`` under this name, which must be set before anything imports prometheus-client.
_SHARED = "PROMETHEUS_MULTIPROC_DIR"
_MOST_CONNECTIONS = 1_024  # of a worker
_WAITING = 1_024  # connections that no worker has taken yet
# Connections that a worker takes at a time: it would take all that wait, and the others would have none.
_TAKEN = 1
# A worker that imports PyTorch does not answer its supervisor for seconds; one that hangs is replaced after so many.
_HUNG = 60


class ServiceError(UnicucoError):
    """The service cannot start: its port is taken, or not allowed."""


def run_service(make: Callable[[], object], host: str, port: int, workers: int, ready: Callable[[str], None]) -> None:
    """Serve until a signal ends it; a worker that dies is replaced, and workers end with who began them.

    Args:
        make: Makes the application, in each worker; it must be picklable.
        host: Address to listen on.
        port: Its port; 0 takes a free one.
        workers: How many processes answer.
        ready: Called with the service's URL once it listens.

    Raises:
        ServiceError: If the address cannot be listened on.
    """
    config = Config(
        partial(_make_in_worker, make),
        host=host,
        port=port,
        workers=workers,
        factory=True,
        loop="asyncio",
        http=TimedProtocol,
        ws="none",
        lifespan="on",
        interface="asgi3",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        backlog=_WAITING if workers == 1 else _TAKEN,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=HEAD_SECONDS,
        timeout_graceful_shutdown=10,
        timeout_worker_healthcheck=_HUNG,
    )
    try:
        # It listens before there is a worker: who asks meanwhile waits.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=_WAITING)
    except OSError as error:
        raise ServiceError(f"port {port} of {host} cannot be listened on ({error.strerror}); choose another") from error
    name = f"[{host}]" if ":" in host else host
    ready(f"http://{name}:{listening.getsockname()[1]}")
    # Small matrices: a worker's threads would only get in each other's way, and in the other workers'.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with listening:
        if workers == 1:
            Server(config).run([listening])
            return
        with tempfile.TemporaryDirectory(prefix="unicuco-serve-") as folder:
            os.environ[_SHARED] = str(Path(folder))
            _Workers(config, [listening]).run()


def _make_in_worker(make: Callable[[], object]) -> object:
    """What a worker serves; one whose parent is killed ends, which otherwise would keep the port for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=follow, daemon=True).start()
    return make()


class _Workers(Multiprocess):
    """Uvicorn's own, of which Prometheus hears no more once they are gone: what waits in them is not waited for."""

    _known: frozenset[int | None] = frozenset()

    def keep_subprocess_alive(self) -> None:
        """Replace who is dead or hangs, and forget who was replaced since the last look; let as many wait as before."""
        for listening in self.sockets:
            listening.listen(_WAITING)  # a worker that begins sets what it takes at a time
        known = self._known.union(process.pid for process in self.processes)
        super().keep_subprocess_alive()
        self._known = frozenset(process.pid for process in self.processes)
        for gone in known - self._known:
            mark_process_dead(gone)
