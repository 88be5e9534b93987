r"""How long a checkpoint takes from a level database to the disk, beside a plain copy of its bytes.

    python benchmarks/stitching.py --model MODEL --profile PROFILE --levels LEVELS \
        --output benchmarks/results/stitching.json

After the imports: the model is read, the profile answers, every linear is stitched and counted, the checkpoint is
written and checked (``unicuco prune --engine levels`` in Python), and its files are fsynced. The copy is of the same
folder, also fsynced, in the same run. ``--repeats`` of either, taking turns; both write to the folder of ``--scratch``.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from common import write_result

from unicuco_plugin.modifiers.export.oneshot import prune
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier


def main() -> None:
    """Stitch, copy, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--levels", required=True)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to write to")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    stitched, synced, copied = [], [], []
    achieved, size = 0.0, 0
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            made, copy = Path(folder) / "made", Path(folder) / "copy"
            started = time.perf_counter()
            modifier = SparsityProfileModifier(
                profile=args.profile, request={"sparsity": args.sparsity}, levels=args.levels
            )
            done = prune(args.model, modifier, made)
            stitched.append(time.perf_counter() - started)
            started = time.perf_counter()
            size = _sync(made)
            synced.append(time.perf_counter() - started)
            if done.achieved is None:
                raise RuntimeError("nothing was stitched")
            achieved = done.achieved.total("exported") / done.achieved.weights
            started = time.perf_counter()
            shutil.copytree(made, copy)
            _sync(copy)
            copied.append(time.perf_counter() - started)
    totals = [made + sync for made, sync in zip(stitched, synced, strict=True)]
    result = {
        "sparsity": achieved,
        "megabytes": round(size / 1e6, 1),
        "seconds": _spread(totals),
        "seconds_of_fsync": _spread(synced),
        "seconds_of_a_copy": _spread(copied),
        "ratio_to_a_copy": round(statistics.median(totals) / statistics.median(copied), 2),
    }
    print(result)
    write_result(args.output, result)


def _sync(folder: Path) -> int:
    """Put every file of a folder on the disk; return their bytes."""
    total = 0
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            total += path.stat().st_size
    return total


def _spread(times: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(times), 3), "largest": round(max(times), 3)}


if __name__ == "__main__":
    main()
