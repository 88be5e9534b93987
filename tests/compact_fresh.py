"""Runs ``compact_reader.py`` in processes that know neither this one's modules nor the tests' folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def read_fresh(folders, scratch, *ways, again=True):
    """What fresh processes find in folders, for each way: ``ours`` with our package, ``remote``, ``stock`` without."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent / "src"), "HF_MODULES_CACHE": str(scratch / "modules")}
    reader = scratch / "reader.py"
    reader.write_text((HERE / "compact_reader.py").read_text())
    command = [sys.executable, str(reader), ",".join(ways), "again" if again else "once", *map(str, folders)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=scratch, check=False)
    assert run.returncode == 0, run.stderr
    return {way: json.loads((scratch / f"{way}.json").read_text(encoding="utf8")) for way in ways}
