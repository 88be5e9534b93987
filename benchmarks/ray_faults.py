"""Trainings on Ray that lose a worker, a node or their driver at a random moment, against the one that loses nothing.

    OMP_NUM_THREADS=1 python benchmarks/ray_faults.py --runs 20 --output benchmarks/results/ray-faults.json

A random model of eight blocks, space depth with compensation, two workers on a cluster of three nodes in processes of
this machine. When the journal has a number of measurements that is drawn, one thing happens: the process of a worker is
killed (SIGKILL); a node with its worker, and another node joins; the driver, which is started again with ``resume``; or
the disk of one worker, on which it keeps the dense model's states, is full for ten seconds, and its process is killed,
so that the next has to load there (this needs root, which mounts it). A run is right if its journal holds what the
unbroken one's holds, bit for bit and each measurement once, the profile says the same, and workers began no more
measurements than the unbroken run plus those that were in flight: what those that were killed had been given last.
Rows are written when they are there; the same command goes on.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from common import ROOT, write_result
from ray_tally import TalliedWorkers, begun

from unicuco_plugin.executors.on_ray import import_ray
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.training import JOURNAL, train_profile

KINDS = ("worker", "node", "driver", *(("disk",) if os.geteuid() == 0 else ()))  # only root mounts small disks
# Bytes of a worker's disk, and seconds for which it is full.
DISK, FULL = 2**22, 10.0
SETTINGS = Settings(
    tokens=256, seq_length=16, rank_tokens=32, rank_seq_length=16, initial=20, epochs=3, steps=5, pool=32, picks=6,
    starts=1, lag=1,
)  # fmt: skip


def drive(dense: Path, text: Path, output: Path, address: str | None) -> None:
    """A training, begun or continued; without an address in this process alone."""
    torch.set_num_threads(1)
    workers = None if address is None else TalliedWorkers(address, count=2, tally=str(tally_of(output)))
    how: dict[str, Any] = {"settings": SETTINGS, "compensation": "linear", "resume": True, "workers": workers}
    train_profile(dense, output, calibration=[str(text)], **how)


def measurements(output: Path) -> list[tuple[Any, ...]]:
    """What a journal holds, whoever writes to it meanwhile; nothing where there is none yet."""
    try:
        with sqlite3.connect(f"file:{output / JOURNAL}?mode=ro", uri=True) as journal:
            return sorted(journal.execute("SELECT fidelity, key, hex(value), hex(per_window) FROM measurements"))
    except sqlite3.OperationalError:
        return []


def tally_of(output: Path) -> Path:
    """Where a training's workers write down what they begin."""
    return output.with_suffix(".tally")


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

    def __init__(self, chance: random.Random, scratch: Path) -> None:
        import_ray()
        from ray.cluster_utils import Cluster  # noqa: PLC0415

        scratch.mkdir()
        self.chance, self.scratch, self.disks = chance, scratch, list[Path]()
        self.cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes = [self.join() for _ in range(2)]

    def join(self) -> Any:
        """One more node, with room for one worker, and a disk of its own."""
        disk = self.scratch / f"disk-{len(self.disks)}"
        disk.mkdir()
        if os.geteuid() == 0:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", disk], check=True)  # noqa: S607
        self.disks.append(disk)
        node = self.cluster.add_node(num_cpus=1, object_store_memory=2**27, env_vars={"TMPDIR": str(disk)})
        node.disk = disk
        return node

    def close(self) -> None:
        """End the cluster, and unmount disks."""
        self.cluster.shutdown()  # type: ignore[no-untyped-call]
        for disk in self.disks if os.geteuid() == 0 else []:
            subprocess.run(["umount", "-l", disk], check=True)  # noqa: S607

    def strike(self, kind: str, driver: Any) -> set[int] | None:
        """Kill one thing; returns the processes of workers that end with it, None where no worker is there to kill."""
        working = [(node, found) for node in self.nodes if (found := workers_of(node))]
        if kind == "driver":
            ended = {pid for _, found in working for pid in found}
            driver.kill()
        elif kind == "node":
            ended = set(workers_of(self.nodes[0]))
            self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
            self.nodes.append(self.join())
        else:
            if not working:
                return None
            node, found = self.chance.choice(working)
            ended = set(found)
            if kind == "disk":
                self.fill(node.disk)
            for pid in ended:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return ended

    def fill(self, disk: Path) -> None:
        """Let a disk be full for a while."""
        ballast = disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**12))
        threading.Timer(FULL, ballast.unlink, kwargs={"missing_ok": True}).start()


def run(kind: str, moment: int, output: Path, start: Callable[[Path], Any], faults: Faults) -> dict[str, Any]:
    """One training with one fault, once ``moment`` measurements are there."""
    clock = time.perf_counter()
    driver, ended = start(output), None
    while driver.is_alive():
        if ended is None and len(measurements(output)) >= moment:
            ended = faults.strike(kind, driver)
            if kind == "driver":
                driver.join()
                driver = start(output)
        time.sleep(0.02)
    seconds = round(time.perf_counter() - clock)
    given = begun(tally_of(output))
    # A worker holds what it was given last, and nothing else.
    in_flight = sum(dict(given).get(pid, 0) for pid in ended or ())
    return {
        "kind": kind,
        "moment": moment,
        "struck": ended is not None,
        "exit": driver.exitcode,
        "begun": sum(count for _, count in given),
        "in_flight": in_flight,
        "seconds": seconds,
    }


def main() -> None:
    """Run the unbroken training, and those with faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    runs = json.loads(args.output.read_text(encoding="utf8"))["runs"] if args.output.exists() else []
    # Drivers are forked from a process that has imported everything and knows no cluster.
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["unicuco_plugin.training.run", "unicuco_plugin.executors.on_ray"])
    with tempfile.TemporaryDirectory() as folder:
        tiny = importlib.import_module("tiny")  # of the tests

        scratch, words = Path(folder), random.Random(args.seed)  # noqa: S311
        dense, text = scratch / "dense", scratch / "text.txt"
        tiny.tiny_model("llama", blocks=8).save_pretrained(dense)
        tiny.tiny_tokenizer(dense)
        text.write_text("\n\n".join(" ".join(words.choices(tiny.WORDS, k=50)) for _ in range(60)), encoding="utf8")
        whole = scratch / "whole"
        alone = forks.Process(target=drive, args=(dense, text, whole, None))
        alone.start()
        alone.join()
        wanted, facts = measurements(whole), said(whole)
        for number in range(len(runs), args.runs):
            chance, output = random.Random(f"{args.seed} {number}"), scratch / f"run-{number}"  # noqa: S311
            faults = Faults(chance, scratch / f"nodes-{number}")

            def start(output: Path, faults: Faults = faults) -> Any:
                process = forks.Process(target=drive, args=(dense, text, output, faults.cluster.address))
                process.start()
                return process

            try:
                row = run(KINDS[number % len(KINDS)], chance.randrange(1, len(wanted)), output, start, faults)
            finally:
                faults.close()
            row |= {
                "journal": measurements(output) == wanted,
                "profile": row["exit"] == 0 and said(output) == facts,
                "few": row["begun"] <= len(wanted) + row["in_flight"],
            }
            print(row, flush=True)
            runs.append(row)
            right = sum(all(row[name] for name in ("struck", "journal", "profile", "few")) for row in runs)
            found = {"measurements": len(wanted), "right": f"{right} of {len(runs)}", "runs": runs}
            write_result(args.output, found)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    main()
