"""Workers that are gone are not counted any more."""

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
    workers.processes = [SimpleNamespace(pid=1), SimpleNamespace(pid=3)]
    workers.keep_subprocess_alive()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "counter_1.db", "gauge_livesum_2.db", "gauge_livesum_3.db",
    ]  # fmt: skip
    workers.keep_subprocess_alive()
    workers.processes = [SimpleNamespace(pid=4), SimpleNamespace(pid=3)]
    workers.keep_subprocess_alive()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counter_1.db", "gauge_livesum_3.db"]
