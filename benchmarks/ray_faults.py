"""Trainings on Ray that lose a worker, a node or their driver at a random moment, against the one that loses nothing.

    OMP_NUM_THREADS=1 python benchmarks/ray_faults.py --runs 20 --output benchmarks/results/ray-faults.json

A random model of eight blocks, space depth, two workers on a cluster of three nodes in processes of this machine. When
the journal has a number of measurements that is drawn, one thing is killed (SIGKILL): the process of a worker; a node
with its worker, and another node joins; the driver, which is started again with ``resume``. A run is right if its
journal holds what the unbroken one's holds, bit for bit and each measurement once, and the profile says the same.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import ROOT, write_result

from unicuco_plugin.executors.on_ray import RayWorkers, import_ray
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.training import JOURNAL, train_profile

KINDS = ("worker", "node", "driver")
SETTINGS = Settings(
    tokens=64, seq_length=16, rank_tokens=32, rank_seq_length=16, initial=20, epochs=5, steps=5, pool=32, picks=6,
    starts=1, lag=1,
)  # fmt: skip


def drive(dense: Path, text: Path, output: Path, address: str | None) -> None:
    """A training, begun or continued; without an address in this process alone."""
    workers = None if address is None else RayWorkers(address, count=2)
    train_profile(dense, output, calibration=[str(text)], settings=SETTINGS, resume=True, workers=workers)


def measurements(output: Path) -> list[tuple[Any, ...]]:
    """What a journal holds, whoever writes to it meanwhile; nothing where there is none yet."""
    try:
        with sqlite3.connect(f"file:{output / JOURNAL}?mode=ro", uri=True) as journal:
            return sorted(journal.execute("SELECT fidelity, key, hex(value), hex(per_window) FROM measurements"))
    except sqlite3.OperationalError:
        return []


def said(output: Path) -> dict[str, Any]:
    """What a profile says but how long it took."""
    record = json.loads((output / "profile.json").read_text(encoding="utf8"))
    return {name: value for name, value in record.items() if name not in {"provenance", "digest", "name"}}


def workers_of(node: Any) -> list[int]:
    """Processes of the actors that a node of the cluster runs."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text(encoding="ascii").split()
    return [int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_Actor")]


class Faults:
    """A cluster, and what may happen to it."""

    def __init__(self, chance: random.Random) -> None:
        import_ray()
        from ray.cluster_utils import Cluster  # noqa: PLC0415

        self.chance = chance
        self.cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes = [self.join() for _ in range(2)]

    def join(self) -> Any:
        """One more node, with room for one worker."""
        return self.cluster.add_node(num_cpus=1, object_store_memory=2**27)

    def strike(self, kind: str, driver: Any) -> None:
        """Kill one thing."""
        if kind == "driver":
            driver.kill()
        elif kind == "node":
            self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
            self.nodes.append(self.join())
        else:
            os.kill(self.chance.choice([pid for node in self.nodes for pid in workers_of(node)]), signal.SIGKILL)


def run(kind: str, moment: int, output: Path, start: Callable[[Path], Any], faults: Faults) -> dict[str, Any]:
    """One training with one fault, once ``moment`` measurements are there."""
    begun = time.perf_counter()
    driver, struck = start(output), False
    while driver.is_alive():
        if not struck and len(measurements(output)) >= moment:
            faults.strike(kind, driver)
            struck = True
            if kind == "driver":
                driver.join()
                driver = start(output)
        time.sleep(0.02)
    return {
        "kind": kind,
        "moment": moment,
        "struck": struck,
        "exit": driver.exitcode,
        "seconds": round(time.perf_counter() - begun),
    }


def main() -> None:
    """Run the unbroken training, and those with faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    # Drivers are forked from a process that has imported everything and knows no cluster.
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["unicuco_plugin.training.run", "unicuco_plugin.executors.on_ray"])
    with tempfile.TemporaryDirectory() as folder:
        tiny = importlib.import_module("tiny")  # of the tests

        scratch, chance = Path(folder), random.Random(args.seed)  # noqa: S311
        dense, text = scratch / "dense", scratch / "text.txt"
        tiny.tiny_model("llama", blocks=8).save_pretrained(dense)
        tiny.tiny_tokenizer(dense)
        text.write_text("\n\n".join(" ".join(chance.choices(tiny.WORDS, k=50)) for _ in range(60)), encoding="utf8")
        whole = scratch / "whole"
        alone = forks.Process(target=drive, args=(dense, text, whole, None))
        alone.start()
        alone.join()
        wanted, facts = measurements(whole), said(whole)
        faults = Faults(chance)

        def start(output: Path) -> Any:
            process = forks.Process(target=drive, args=(dense, text, output, faults.cluster.address))
            process.start()
            return process

        runs = []
        for number in range(args.runs):
            output = scratch / f"run-{number}"
            row = run(KINDS[number % 3], chance.randrange(1, len(wanted)), output, start, faults)
            row |= {"journal": measurements(output) == wanted, "profile": row["exit"] == 0 and said(output) == facts}
            print(row, flush=True)
            runs.append(row)
        faults.cluster.shutdown()  # type: ignore[no-untyped-call]
    right = sum(row["struck"] and row["journal"] and row["profile"] for row in runs)
    write_result(args.output, {"measurements": len(wanted), "right": f"{right} of {len(runs)}", "runs": runs})


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    main()
