"""Trainings of SmolLM2 by one process and by workers on a cluster of nodes in processes: the same archive, bit for bit.

    OMP_NUM_THREADS=1 python benchmarks/ray_workers.py --levels DIR --output benchmarks/results/ray-workers.json

Spaces depth, sublayer and sparsity, the last on a level database of the model in float32 (``unicuco levels build
--dtype float32 --inputs dense --sparsities 0.2,0.4,0.6,0.8 --samples 16``): each by one process alone, then by one, two
and four workers, every one on a node of its own. A row says whether the journal holds what that process's holds, bit
for bit and each measurement once, and whether the profile says the same. No speed is claimed: all share the cores of
one machine. Rows are written when they are there; the same command goes on.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import ROOT, SHARED, write_result
from ray_faults import measurements, said

from unicuco_plugin.executors.on_ray import RayWorkers, import_ray
from unicuco_plugin.models.checkpoints.demo import find_smollm2
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.training import train_profile
from unicuco_plugin.training.source import ModelSource
from unicuco_plugin.training.subject import UnitOptions

# A search in small: windows of a few sentences, three rounds beside each other.
SETTINGS = Settings(
    tokens=512, seq_length=128, rank_tokens=256, rank_seq_length=128, initial=24, epochs=3, steps=20, pool=256, picks=6,
    starts=2, lag=1,
)  # fmt: skip


def drive(space: str, output: Path, levels: Path, address: str | None, count: int) -> None:
    """One training; without an address in this process alone."""
    torch.set_num_threads(1)
    workers = None if address is None else RayWorkers(address, count=count)
    units = UnitOptions(levels=levels) if space == "sparsity" else UnitOptions()
    text = [str(SHARED / "data" / "text" / f"calib_{name}.txt") for name in ("wikipedia", "webtext")]
    source = ModelSource(str(find_smollm2()), dtype="float32")
    train_profile(source, output, space=space, units=units, calibration=text, settings=SETTINGS, workers=workers)


def main() -> None:
    """Train each space by one process, then by workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", default=["depth", "sublayer", "sparsity"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--levels", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "ray-workers.json")
    args = parser.parse_args()
    rows = json.loads(args.output.read_text(encoding="utf8"))["rows"] if args.output.exists() else []
    known = {(row["space"], row["workers"]) for row in rows}
    forks = multiprocessing.get_context("spawn")
    for space in args.spaces:
        missing = [count for count in args.workers if (space, count) not in known]
        with tempfile.TemporaryDirectory() as folder:
            found: dict[int, tuple[Any, Any]] = {}
            for count in [0, *missing] if missing else []:
                output, begun = Path(folder) / str(count), time.perf_counter()
                with _Nodes(count) as address:
                    process = forks.Process(target=drive, args=(space, output, args.levels, address, count))
                    process.start()
                    process.join()
                if process.exitcode:
                    sys.exit(f"{space} with {count} workers ended with status {process.exitcode}")
                found[count] = measurements(output), said(output)
                seconds = round(time.perf_counter() - begun)
                row: dict[str, Any] = {"space": space, "workers": count, "measurements": len(found[count][0])}
                if count:
                    row |= {"journal": found[count][0] == found[0][0], "profile": found[count][1] == found[0][1]}
                    rows.append(row | {"seconds": seconds})
                print(row, seconds, flush=True)
                settings = SETTINGS.model_dump(mode="json", exclude_defaults=True)
                shown = ["--spaces", *args.spaces, "--workers", *map(str, args.workers), "--levels", "DIR"]
                write_result(args.output, {"dtype": "float32", "settings": settings, "rows": rows}, shown)


class _Nodes:
    """A cluster of so many nodes, each with room for one worker; none for none."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._cluster: Any = None

    def __enter__(self) -> str | None:
        if not self._count:
            return None
        import_ray()
        from ray.cluster_utils import Cluster  # noqa: PLC0415

        self._cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(self._count):
            self._cluster.add_node(num_cpus=1, object_store_memory=2**27)
        return str(self._cluster.address)

    def __exit__(self, *_: object) -> None:
        if self._cluster is not None:
            self._cluster.shutdown()


if __name__ == "__main__":
    main()
