"""How many workers a search keeps busy, with and without a lag, and what a candidate costs the driver.

    OMP_NUM_THREADS=1 python benchmarks/ray_scaling.py --output benchmarks/results/ray-scaling.json

No language model, and no GPU: a candidate takes a latency with jitter, a quarter more or less, or (uneven) half of it
fixed and half exponential, so that some take several times as long as others. In two parts, since two shared cores
cannot keep real time for 64:

- Whole searches over the blocks of a synthetic model (``search_cost.py``) are run once for each setting, in processor
  seconds of the driver between what it gives out and what it waits for. Candidates are then played back on a clock,
  handed out by the very code that hands them to workers (``executors/waiting.py``), for any number of workers and any
  latency: the search is the same for all. Efficiency is the latency of all candidates / (workers x whole time).
- Sleepers on Ray, one process with a thread for each, are given candidates through ``CandidateCrew``, in real
  time: what handing out and recording take.

Searches are written when they are there; the same command goes on.
"""

import argparse
import heapq
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import write_result
from search_cost import Problem, make_space
from torch import Tensor

from unicuco_plugin.executors.measuring import CandidateCrew
from unicuco_plugin.executors.on_ray import RayWorker, import_ray
from unicuco_plugin.executors.waiting import Waiting
from unicuco_plugin.journal.journal import Journal, Measurement
from unicuco_plugin.journal.measuring import RANK, JournaledMeasure
from unicuco_plugin.objectives.objective import Evaluation
from unicuco_plugin.policy.scalarization import tchebycheff
from unicuco_plugin.search.settings import PRESETS, Settings
from unicuco_plugin.search.trainer import train

WORKERS = (1, 2, 4, 8, 16, 32, 64)
# Seconds a candidate, depth, one H200 at 400 TFLOP/s (``footprint.py``: arithmetic; no device was at hand): Llama-3-8B
# on the default's 1 024 and the preset paper's 524 288 ranking tokens, Llama-3-70B on those, -405B as its weights are
# more, and one in between.
LATENCIES = {"0.032 s": 0.032, "1 s": 1.0, "16.4 s": 16.4, "140 s": 140.0, "810 s": 810.0}
SEARCHES = {
    "32 blocks": (32, Settings()),
    "32 blocks, lag 3": (32, Settings(lag=3)),
    "80 blocks, more at once": (80, Settings(initial=128, picks=128, epochs=3, lag=0)),
    "80 blocks, more at once, lag 1": (80, Settings(initial=128, picks=128, epochs=3, lag=1)),
    # The preset whose windows take as long, with more picks in fewer rounds; 126 blocks are those of Llama-3-405B.
    **{
        f"{units} blocks, preset paper, more at once, lag {lag}": (
            units,
            PRESETS["paper"].model_copy(update={"picks": 128, "epochs": 13, "lag": lag}),
        )
        for units, lag in ((80, 0), (80, 1), (80, 2), (32, 1), (126, 1))
    },
}
# What a candidate takes, in latencies, from a number drawn evenly in [0, 1].
JITTER: dict[str, Callable[[Tensor], Tensor]] = {
    "even": lambda drawn: 0.75 + 0.5 * drawn,
    "uneven": lambda drawn: 0.5 - 0.5 * (1.0 - drawn).log(),
}


class Traced:
    """Measures at once, and keeps what the driver did: seconds of work, lots given, lots waited for."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.steps = problem, list[tuple[str, Any]]()
        self.lots: dict[tuple[str, ...], int] = {}
        self.since = time.process_time()

    def begin(self, fidelity: str, X: Tensor) -> None:
        """See ``AheadMeasure``."""
        key = (fidelity, *(self.problem.space.key(row) for row in X))
        if key not in self.lots:
            self.lots[key] = len(self.lots)
            self.steps += [("work", time.process_time() - self.since), ("give", X)]
            self.since = time.process_time()

    def __call__(self, fidelity: str, X: Tensor, report: Callable[[int], None]) -> list[Measurement]:
        """See ``Measure``."""
        self.begin(fidelity, X)
        number = self.lots[(fidelity, *(self.problem.space.key(row) for row in X))]
        self.steps += [("work", time.process_time() - self.since), ("wait", number)]
        rows = self.problem.measure(fidelity, X, report)
        self.since = time.process_time()
        return rows


def play(steps: list[tuple[str, Any]], workers: int, latency: float, jitter: str, most: int) -> float:
    """The efficiency of ``workers`` on a clock."""
    chance = torch.Generator().manual_seed(7)
    waiting, idle, now = Waiting(most), [0.0] * workers, 0.0
    given: list[tuple[float, int]] = []  # when each lot was given, and how many of it nobody has taken
    ends: list[float] = []  # when the last candidate of each lot is done
    spent = 0.0

    def take_until(moment: float, lot: int | None = None) -> None:
        """Let workers that are free by then take what there is, or whoever is first until a lot is taken."""
        nonlocal spent
        while any(left for _, left in given) and (idle[0] <= moment or (lot is not None and given[lot][1])):
            free = heapq.heappop(idle)
            number = next(i for i, (_, left) in enumerate(given) if left)
            when, left = given[number]
            count = len(waiting.take(None, workers))
            took = latency * JITTER[jitter](torch.rand(count, generator=chance)).sum().item()
            spent += took
            given[number] = when, left - count
            end = max(free, when) + took
            ends[number] = max(ends[number], end)
            heapq.heappush(idle, end)

    for kind, what in steps:
        take_until(now)
        if kind == "work":
            now += what
        elif kind == "give":
            waiting.give(RANK, what, lambda _rows, _found: None)
            given.append((now, len(what)))
            ends.append(0.0)
        else:
            take_until(now, what)
            now = max(now, ends[what])
    return spent / (workers * now)


def search(settings: Settings, units: int) -> dict[str, Any]:
    """One search, played back."""
    space = make_space("depth", units)
    traced = Traced(Problem(space, 0))
    result = train(space, traced, tchebycheff, settings)
    best: dict[float, float] = {}
    for row in result.confirmed:
        size = space.sparsity(space.parse(row.key)[None]).item()
        best[size] = min(row.value, best.get(size, math.inf))
    count = sum(len(what) for kind, what in traced.steps if kind == "give")
    driver = sum(what for kind, what in traced.steps if kind == "work")
    efficiency = {
        f"{name}, {jitter}": {
            str(workers): round(play(traced.steps, workers, latency, jitter, settings.batch), 3) for workers in WORKERS
        }
        for name, latency in LATENCIES.items()
        for jitter in JITTER
    }
    return {
        "candidates": count,
        "driver_seconds": round(driver, 1),
        "driver_seconds_a_candidate": round(driver / count, 3),
        "best": {f"{size:.4f}": round(value, 5) for size, value in sorted(best.items())},
        "efficiency": efficiency,
    }


class Sleepers:
    """Every worker of a cluster, as a thread of one actor."""

    def load(self) -> None:
        """Nothing to load."""

    def do(self, _: str, X: Tensor) -> list[Evaluation]:
        """Sleep for each candidate, a second on average."""
        seconds = (0.75 + 0.5 * X[:, 0]).tolist()
        time.sleep(sum(seconds))
        return [Evaluation(second, (second,), 1, second) for second in seconds]


class Names:
    """A space as the journal asks it."""

    def key(self, x: Tensor) -> str:
        """A name for each strategy."""
        return repr(x.item())


def sleep_on_ray(ray: Any, workers: int, rounds: int) -> dict[str, float]:
    """Sleepers of one second on average, in real time."""
    actor = ray.remote(num_cpus=0, max_concurrency=workers + 1)(Sleepers).remote()
    ray.get(actor.load.remote())
    generator = torch.Generator().manual_seed(workers)
    X = torch.rand(rounds * workers, 1, generator=generator, dtype=torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        crew = CandidateCrew(lambda: Shared(ray, actor), workers, 12, lambda _: None)
        with Journal.open(Path(folder) / "journal", {}, resume=False) as journal:
            begun, processor = time.perf_counter(), time.process_time()
            rows = JournaledMeasure(journal, Names(), crew)("rank", X, lambda _: None)  # type: ignore[arg-type]
            wall, processor = time.perf_counter() - begun, time.process_time() - processor
    crew.close()
    ray.kill(actor)
    busy = sum(row.seconds for row in rows)
    return {
        "candidates": len(rows),
        "efficiency": round(busy / (workers * wall), 3),
        "driver_seconds_a_candidate": round(processor / len(rows), 4),
    }


class Shared(RayWorker):
    """One of those threads."""

    def end(self) -> None:
        """The others go on."""


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="candidates for each sleeper")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    before = json.loads(args.output.read_text(encoding="utf8")) if args.output.exists() else {}
    sleeping, searches = before.get("sleeping"), before.get("searches", {})
    if not sleeping:
        ray = import_ray()
        ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=2**27, log_to_driver=False)
        sleeping = {str(workers): sleep_on_ray(ray, workers, args.rounds) for workers in (1, 8, 32, 64)}
        ray.shutdown()
    for name, (units, settings) in SEARCHES.items():
        if searches.get(name, {}).get("settings") == settings.model_dump(exclude_defaults=True):
            continue
        searches[name] = {"settings": settings.model_dump(exclude_defaults=True)} | search(settings, units)
        print(name, {field: value for field, value in searches[name].items() if field != "best"}, flush=True)
        write_result(args.output, {"latencies": LATENCIES, "searches": searches, "sleeping": sleeping})


if __name__ == "__main__":
    main()
