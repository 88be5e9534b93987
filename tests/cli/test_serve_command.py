"""``unicuco serve``: what is asked before it listens, and a service in processes of its own."""

import importlib.util
import re
import signal
import subprocess
import sys
import time

import httpx
import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
pytest.importorskip("prometheus_client", reason="the extra [serve] is not installed")

DEPTH = "smollm2-135m-instruct-depth"


def test_without_its_extra_it_says_what_to_install(unicuco, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "fastapi" else find(name, *rest)
    )
    result = unicuco("serve", DEPTH)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: unicuco serve needs fastapi: pip install 'unicuco-plugin[serve]'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: no profile at nowhere: neither a folder nor a packaged profile ("),
        (
            [DEPTH, "--token-env", "NOT_SET"],
            "error: --token-env must name a variable that holds a token, got 'NOT_SET'",
        ),
        (
            [DEPTH, "--host", "203.0.113.7", "--token-env", "PATH"],
            "error: port 8000 of 203.0.113.7 cannot be listened on (",
        ),
    ],
)
def test_what_cannot_be_served_is_one_line(unicuco, arguments, message):
    result = unicuco("serve", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith(message)


def test_the_page_is_written_as_one_file(unicuco, profile, tmp_path):
    result = unicuco("show", profile, "--html", tmp_path / "page.html")
    assert (result.exit_code, result.stderr) == (0, f"written to {tmp_path / 'page.html'}\n")
    assert '"name": "tiny-depth"' in (tmp_path / "page.html").read_text(encoding="utf8")


def test_the_page_counts_memory_under_a_load(unicuco, profile, tmp_path):
    result = unicuco("show", profile, "--html", tmp_path / "page.html", "--context", "64", "--batch", "3")
    assert result.exit_code == 0, result.stderr
    text = (tmp_path / "page.html").read_text(encoding="utf8")
    assert '"load": {"context": 64, "batch": 3, "cache_dtype": null, "phase": "decode"}' in text
    assert '"max_memory": {"low": ' in text


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--context", "64"], 2, "--context is for the page of --html FILE"),
        (["--html", "p.html", "--batch", "3"], 1, "batch needs context, the tokens of a sequence, such as 8192"),
        (["--html", "p.html", "--context", "0"], 1, "context: Input should be greater than 0, got 0"),
        (["--html", "p.html", "--device-table", "t.json"], 2, "--device-table needs the load whose times are asked"),
    ],
)
def test_what_does_not_go_together_is_refused(unicuco, profile, options, code, message):
    result = unicuco("show", profile, *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "end"), [("1", signal.SIGTERM), ("2", signal.SIGTERM), ("2", signal.SIGKILL)], ids=str
)
def test_it_serves_until_it_is_told_to_stop_or_killed(profile, tmp_path, workers, end):
    command = "from unicuco_plugin.cli.main import main; main()"
    arguments = ["serve", str(profile), "--port", "0", "--workers", workers]
    log = tmp_path / "log"
    with log.open("w") as file, subprocess.Popen([sys.executable, "-c", command, *arguments], stderr=file) as process:
        deadline = time.monotonic() + 120
        while not (
            found := re.search(r"^serving tiny-depth at (http://127\.0\.0\.1:\d+)$", log.read_text(), re.MULTILINE)
        ):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        answer = httpx.post(f"{found[1]}/v1/strategies", json={"request": {"sparsity": 0.3}}, timeout=120)
        assert len(answer.json()["units"]) == 2
        told = httpx.get(f"{found[1]}/metrics", timeout=120).text
        assert 'unicuco_answers_total{outcome="found",profile="tiny-depth"} 1.0' in told
        process.send_signal(end)
        process.wait(60)
    deadline = time.monotonic() + 60
    with pytest.raises(httpx.TransportError):  # no worker that was left alone keeps the port
        while time.monotonic() < deadline:
            httpx.get(f"{found[1]}/healthz", timeout=60)
            time.sleep(0.1)
    assert "Traceback" not in log.read_text()
