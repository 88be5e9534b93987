"""Workers that are gone are not counted any more; connections that no worker has taken wait."""

import socket
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
pytest.importorskip("prometheus_client", reason="the extra [serve] is not installed")


def test_what_waited_in_a_worker_that_is_gone_does_not_count(monkeypatch, tmp_path):
    from unicuco_plugin.web import run

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for name in ("gauge_livesum_1.db", "gauge_livesum_2.db", "gauge_livesum_3.db", "counter_1.db"):
        (tmp_path / name).touch()
    alive = [[2, 3], [2, 3], [4, 3]]  # the last after a signal that replaced one between two looks

    def replace(workers):
        workers.processes = [SimpleNamespace(pid=pid) for pid in alive.pop(0)]

    monkeypatch.setattr(run.Multiprocess, "keep_subprocess_alive", replace)
    workers = run._Workers.__new__(run._Workers)  # as it is, it would take this process' signals
    workers.sockets = []
    workers.processes = [SimpleNamespace(pid=1), SimpleNamespace(pid=3)]
    workers.keep_subprocess_alive()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "counter_1.db", "gauge_livesum_2.db", "gauge_livesum_3.db",
    ]  # fmt: skip
    workers.keep_subprocess_alive()
    workers.processes = [SimpleNamespace(pid=4), SimpleNamespace(pid=3)]
    workers.keep_subprocess_alive()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counter_1.db", "gauge_livesum_3.db"]


def test_a_worker_takes_one_connection_at_a_time_and_all_others_wait(monkeypatch):
    from unicuco_plugin.web import run

    configs = []
    for name in ("PROMETHEUS_MULTIPROC_DIR", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # as it was, afterwards
    monkeypatch.setattr(run.Multiprocess, "__init__", lambda _, config, sockets: configs.append((config, sockets)))
    monkeypatch.setattr(run.Multiprocess, "run", lambda _: None)
    monkeypatch.setattr(run.Multiprocess, "keep_subprocess_alive", lambda _: None)
    run.run_service(object, "127.0.0.1", 0, 2, lambda _: None)
    [(config, _)] = configs
    assert config.backlog == 1
    workers = run._Workers.__new__(run._Workers)
    workers.processes = []
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listening.listen(config.backlog)  # as asyncio does in a worker
        workers.sockets = [listening]
        workers.keep_subprocess_alive()
        for _ in range(40):
            stack.enter_context(socket.create_connection(listening.getsockname(), timeout=10))
