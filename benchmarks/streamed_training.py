r"""One whole training with the model in memory, and with its blocks in files: both must end in the same archive.

    OMP_NUM_THREADS=1 python benchmarks/streamed_training.py --model MODEL --calibration TEXT --folder SCRATCH \
        --output benchmarks/results/streamed-training.json

A training that ``SCRATCH`` holds already, finished, is not run again.
"""

import argparse
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import write_result

SETTINGS = "--dtype float32 --tokens 128 --seq-length 64 --rank-tokens 64 --rank-seq-length 32 --initial 30 --epochs 2"
# What says when, where and for how long, and what depends on these.
_OWN = ("name", "digest", "provenance")


def trained(args: argparse.Namespace, offload: str) -> dict[str, Any]:
    """What one training measured and wrote, but for its times."""
    folder = args.folder / f"t-{offload}"
    if not (folder / "profile.json").exists():
        place = ["--output", str(folder), "--offload", offload, "--resume"]
        command = ["train", "--model", args.model, "--calibration", args.calibration, *place, *SETTINGS.split()]
        subprocess.run([sys.executable, "-c", "from unicuco_plugin.cli.main import main; main()", *command], check=True)
    written = json.loads((folder / "profile.json").read_text(encoding="utf8"))
    spent = written["provenance"]
    assert not spent["interrupted"]
    with sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True) as journal:
        rows = journal.execute("SELECT key, fidelity, value, per_window, tokens FROM measurements ORDER BY number")
        measured = rows.fetchall()
    return {
        "measured": measured,
        "profile": {name: value for name, value in written.items() if name not in _OWN},  # files by digest among it
        "spent": {name: spent[name] for name in ("evaluations", "evaluation_tokens", "epochs", "calibration")},
        "seconds": spent["seconds"],
    }


def main() -> None:
    """Train twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    runs = {offload: trained(args, offload) for offload in ("none", "disk")}
    held, streamed = runs.values()
    same = {part: held[part] == streamed[part] for part in ("measured", "profile", "spent")}
    result = {
        "settings": SETTINGS,
        "same": same,
        "measurements": len(held["measured"]),
        "archive": len(held["profile"]["archive"]),
        "seconds": {offload: round(run["seconds"], 1) for offload, run in runs.items()},
    }
    print(json.dumps(result))
    shown = ["--model", Path(args.model).name, "--calibration", Path(args.calibration).name]
    write_result(args.output, result, [*shown, "--folder", "SCRATCH", "--output", str(args.output)])
    assert all(same.values())


if __name__ == "__main__":
    main()
