"""The service under load: is every answer right, how fast, and what survives.

    python benchmarks/service_load.py --output benchmarks/results/service-load.json

Starts ``unicuco serve`` with two workers on this machine and asks it from 64 connections: distinct requests to three
packaged profiles, each answer compared with the command line's (``unicuco strategy --request-file``); many more in
lists, while the workers' memory is watched; then a worker is killed, and a profile replaced, under load. All traffic
stays on the loopback address.
"""

import argparse
import asyncio
import json
import os
import random
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import ROOT, write_result

from unicuco_plugin.answering import PACKAGED, load_profile
from unicuco_plugin.profile import read_profile, write_profile
from unicuco_plugin.request import Request

PROFILES = tuple(f"smollm2-135m-instruct-{space}" for space in ("depth", "precision", "sparsity"))
CHANGING = "changing"
CLIENTS, WORKERS, LIST = 64, 2, 100
# Of requests: most limit a size, as users do; a divergence in a smooth space takes eight descents.
WEIGHTS = {"max_divergence": 0.15, "preference": 0.15}
# By profile, of those that are compared and of the many: what takes longest is asked least.
SHARES, MANY_SHARES = (0.6, 0.3, 0.1), (0.94, 0.05, 0.01)
COMMANDS = 6  # processes of the command line that are timed, two at once
COMMAND = [sys.executable, "-c", "from unicuco_plugin.cli.main import main; main()"]


class Client:
    """One connection, kept open; opened again when it was lost."""

    def __init__(self, port: int) -> None:
        self._port, self._streams = port, None  # type: int, tuple[asyncio.StreamReader, asyncio.StreamWriter] | None

    async def ask(self, body: object) -> tuple[int, bytes]:
        """Send a body to ``/v1/strategies``.

        Raises:
            OSError, EOFError: If the connection is lost before the answer is whole.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        data = json.dumps(body).encode()
        head = "POST /v1/strategies HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        try:
            writer.write(f"{head}{len(data)}\r\n\r\n".encode() + data)
            told = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(told.partition("content-length: ")[2].split("\r\n")[0])
            return int(told.split()[1]), await reader.readexactly(length)
        except (OSError, EOFError):
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@contextmanager
def serving(sources: Sequence[str | Path], log: Path) -> Iterator[tuple[int, int]]:
    """The service as a process of its own; gives its port and process."""
    command = [*COMMAND, "serve", *map(str, sources), "--port", "0", "--workers", str(WORKERS)]
    with log.open("w+", encoding="utf8") as file, subprocess.Popen(command, stderr=file) as process:
        try:
            while not (found := re.search(r":(\d+)$", log.read_text(encoding="utf8"), re.MULTILINE)):
                assert process.poll() is None, log.read_text(encoding="utf8")
                time.sleep(0.2)
            asyncio.run(_until_all_answer(int(found[1])))
            yield int(found[1]), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


async def _until_all_answer(port: int) -> None:
    """Wait until every worker has read the profiles, which their metrics tell."""
    pattern = rf'unicuco_profile_reads_total{{outcome="done",profile="{PROFILES[-1]}"}} {WORKERS}.0'
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        if pattern in text:
            return
        await asyncio.sleep(0.5)


def draw(name: str, count: int, chance: random.Random) -> list[dict[str, Any]]:
    """Distinct requests to one profile, over all that its front has."""
    front = load_profile(name).front()
    drawn: dict[str, dict[str, Any]] = {}
    ends: dict[str, list[float]] = {
        "sparsity": [strategy.sparsity for strategy in front],
        "max_params": [strategy.params for strategy in front],
        "max_bytes": [strategy.bytes for strategy in front],
        "bits": [strategy.bits or 0.0 for strategy in front],
        "max_divergence": [strategy.divergence.interval90[1] for strategy in front if strategy.divergence],
    }
    sizes = {
        "depth": ["sparsity", "max_params", "max_bytes"],
        "precision": ["bits", "max_bytes"],
        "sparsity": ["sparsity"],
    }
    own = sizes[name.rpartition("-")[2]]
    fields = [*own, *WEIGHTS]
    weights = [(1.0 - sum(WEIGHTS.values())) / len(own)] * len(own) + list(WEIGHTS.values())
    while len(drawn) < count:
        [field] = chance.choices(fields, weights)
        if field == "preference":
            asked: dict[str, Any] = {field: [round(chance.random(), 9), 1.0]}
        else:
            value = chance.uniform(min(ends[field]), max(ends[field]))
            asked = {field: round(value) if field in ("max_params", "max_bytes") else round(value, 9)}
        drawn[json.dumps(asked)] = asked
    return list(drawn.values())


async def load(port: int, bodies: Sequence[Any], during: Callable[[int], Any] | None = None) -> dict[str, Any]:
    """Send bodies from all clients at once; every client sends its next one when it has its answer."""
    answers: list[tuple[int, bytes] | None] = [None] * len(bodies)
    seconds, lost, again = [], 0, 0
    line = iter(range(len(bodies)))

    async def work() -> None:
        nonlocal lost, again
        client = Client(port)
        for place in line:
            began = time.perf_counter()
            try:
                while (answer := await client.ask(bodies[place]))[0] == 503:  # as Retry-After says
                    again += 1
                    client.close()  # the service would close it meanwhile
                    await asyncio.sleep(5)
                answers[place] = answer
            except (OSError, EOFError):
                lost += 1
                continue
            seconds.append(time.perf_counter() - began)
            if during is not None:
                during(place)
        client.close()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    wall = time.perf_counter() - began
    seconds.sort()
    return {
        "answers": answers,
        "lost": lost,
        "asked_again_when_busy": again,
        "seconds": round(wall, 1),
        "per_second": round(len(seconds) / wall, 1),
        "p50_ms": round(1000 * statistics.median(seconds), 1),
        "p99_ms": round(1000 * seconds[int(0.99 * len(seconds))], 1),
        "largest_ms": round(1000 * seconds[-1], 1),
    }


def by_command_line(asks: Sequence[dict[str, Any]], folder: Path) -> list[str]:
    """The command line's answers to the same requests: one process for each profile, one line for each request."""
    texts: dict[int, str] = {}
    for name in PROFILES:
        places = [place for place, ask in enumerate(asks) if ask["profile"] == name]
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(asks[place]["request"]) + "\n" for place in places), encoding="utf8")
        command = [*COMMAND, "strategy", name, "--request-file", str(file), "--json"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        texts |= dict(zip(places, lines, strict=True))
    return [texts[place] for place in range(len(asks))]


def cpu_of(pids: Sequence[int]) -> float:
    """Seconds of a processor that processes have had."""
    ticks = [Path(f"/proc/{pid}/stat").read_text(encoding="utf8").rpartition(")")[2].split()[11:13] for pid in pids]
    return sum(int(tick) for pair in ticks for tick in pair) / os.sysconf("SC_CLK_TCK")


def time_commands(asks: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """The command line, a process for each request, as many at once as the service has workers.

    Returns:
        Requests a second, and seconds of a processor a request.
    """
    began, spent = time.perf_counter(), sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    for start in range(0, COMMANDS, WORKERS):
        running = []
        for ask in asks[start : start + WORKERS]:
            [(field, value)] = ask["request"].items()
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            option = f"--{field.replace('_', '-')}"
            running.append(subprocess.Popen([*COMMAND, "strategy", ask["profile"], option, text, "--json"], stdout=-3))
        assert all(process.wait() == 0 for process in running)
    cpu = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - spent
    return COMMANDS / (time.perf_counter() - began), cpu / COMMANDS


def workers_of(pid: int) -> list[int]:
    """The processes that answer; a helper of Python's own is none."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf8").split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def memory_of(pid: int) -> float:
    """Megabytes that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf8")
    return round(int(status.partition("VmRSS:")[2].split()[0]) / 1024, 1)


async def watch_memory(port: int, pid: int, many: int, chance: random.Random) -> dict[str, Any]:
    """Ask very many distinct requests in lists, and look at the workers' memory in between."""
    asks = []
    for name, share in zip(PROFILES, MANY_SHARES, strict=True):
        asks += [{"profile": name, "request": one} for one in draw(name, round(many * share), chance)]
    chance.shuffle(asks)
    bodies = [asks[start : start + LIST] for start in range(0, len(asks), LIST)]
    seen, refused, seconds = [], 0, 0.0
    for part in range(10):
        found = await load(port, bodies[part * len(bodies) // 10 : (part + 1) * len(bodies) // 10])
        seconds += found["seconds"]
        assert all(answer is not None and answer[0] == 200 for answer in found["answers"])
        refused += sum(answer[1].count(b'"urn:unicuco:problem') for answer in found["answers"] if answer)
        seen.append([memory_of(worker) for worker in workers_of(pid)])
    return {
        "requests": len(asks),
        "refused": refused,
        "per_second": round(len(asks) / seconds, 1),
        "megabytes_after_each_tenth": seen,
    }


async def kill_a_worker(port: int, pid: int, asks: Sequence[dict[str, Any]], expected: Sequence[str]) -> dict[str, Any]:
    """Kill one worker when a quarter is done; the rest goes to the other, and to the one that takes its place."""
    before, done = workers_of(pid), 0

    def kill(_place: int) -> None:
        nonlocal done
        done += 1
        if done == len(asks) // 4:
            os.kill(before[0], signal.SIGKILL)

    found = await load(port, asks, kill)
    answered = [(place, answer) for place, answer in enumerate(found.pop("answers")) if answer is not None]
    wrong = sum(status != 200 or body.decode() != expected[place] for place, (status, body) in answered)
    deadline = time.monotonic() + 120
    while len(set(workers_of(pid)) - {before[0]}) < WORKERS and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    return {
        "requests": len(asks),
        **found,
        "wrong": wrong,
        "replaced": len(set(workers_of(pid)) - {before[0]}) == WORKERS,
    }


async def replace_a_profile(port: int, folder: Path, count: int, chance: random.Random) -> dict[str, Any]:
    """Replace a profile again and again while it is asked: each answer must be one of the two profiles'."""
    record, tensors = read_profile(folder)
    other = record.model.model_copy(update={"name": "other"})  # which every answer names
    versions = [record, record.model_copy(update={"model": other})]
    requests = draw(PROFILES[0], count, chance)
    asks = [{"profile": CHANGING, "request": one} for one in requests]
    expected = []
    for version in versions:
        write_profile(folder, version, tensors)
        expected.append(
            [answer.to_json() for answer in load_profile(folder).answer_many(Request.of(**one) for one in requests)]
        )
    done = written = 0

    def write(_place: int) -> None:
        nonlocal done, written
        done += 1
        if done % (count // 12) == 0:
            written += 1
            write_profile(folder, versions[written % 2], tensors)

    await asyncio.sleep(2)
    found = await load(port, asks, write)
    texts = [answer[1].decode() if answer else "" for answer in found.pop("answers")]
    kinds = [(text == old[0], text == old[1]) for text, old in zip(texts, zip(*expected, strict=True), strict=True)]
    return {
        "requests": len(asks), **found, "written": written,
        "as_the_first": kinds.count((True, False)), "as_the_second": kinds.count((False, True)),
        "as_both": kinds.count((True, True)), "as_neither": kinds.count((False, False)),
    }  # fmt: skip


def main() -> None:
    """Load, compare, watch, kill, replace; write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=10_000, help="Distinct ones that are compared.")
    parser.add_argument("--many", type=int, default=100_000, help="Distinct ones during which memory is watched.")
    args = parser.parse_args()
    chance = random.Random(0)  # noqa: S311 - drawn again alike
    asks = [
        {"profile": name, "request": one}
        for name, share in zip(PROFILES, SHARES, strict=True)
        for one in draw(name, round(args.requests * share), chance)
    ]
    chance.shuffle(asks)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        shutil.copytree(PACKAGED / PROFILES[0], folder / CHANGING)
        with serving([*PROFILES, folder / CHANGING], folder / "log") as (port, pid):
            print("serving", flush=True)
            result: dict[str, Any] = {"clients": CLIENTS, "workers": WORKERS, "profiles": list(PROFILES)}
            result["load_average_before"] = round(os.getloadavg()[0], 1)  # of other work on the machine
            result["shares"] = dict(zip(PROFILES, SHARES, strict=True))
            workers = workers_of(pid)
            before = cpu_of(workers)
            found = asyncio.run(load(port, asks))
            cpu = (cpu_of(workers) - before) / len(asks)
            answers = found.pop("answers")
            result["load"] = {"requests": len(asks), **found, "errors": sum(a is None or a[0] != 200 for a in answers)}
            print(result["load"], flush=True)
            expected = by_command_line(asks, folder)
            result["load"]["differ_from_the_command_line"] = sum(
                a is None or a[1].decode() != line for a, line in zip(answers, expected, strict=True)
            )
            result["load"]["cpu_ms_each"] = round(1000 * cpu, 2)
            rate, own = time_commands(asks)
            result["command_line"] = {
                "per_second": round(rate, 3),
                "cpu_ms_each": round(1000 * own),
                "service_answers_more_by": round(found["per_second"] / rate, 1),
                "and_by_processor_time": round(own / cpu, 1),
            }
            print(result["load"], result["command_line"], flush=True)
            result["memory"] = asyncio.run(watch_memory(port, pid, args.many, chance))
            print(result["memory"], flush=True)
            light = [place for place, ask in enumerate(asks) if ask["profile"] != PROFILES[2]]
            chosen = [asks[place] for place in light], [expected[place] for place in light]
            result["killed_worker"] = asyncio.run(kill_a_worker(port, pid, *chosen))
            print(result["killed_worker"], flush=True)
            result["replaced_profile"] = asyncio.run(
                replace_a_profile(port, folder / CHANGING, args.requests // 2, chance)
            )
            print(result["replaced_profile"], flush=True)
    write_result(args.output if args.output.is_absolute() else ROOT / args.output, result)


if __name__ == "__main__":
    main()
