"""Runs ``compact_reader.py`` in a process that knows neither this one's modules nor the tests' folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def read_fresh(way, folders, scratch, *, again=True):
    """What a fresh process finds in folders: ``ours`` with our package, ``remote`` and ``stock`` without it."""
    source = str(HERE.parent / "src") if way == "ours" else ""
    environment = os.environ | {"PYTHONPATH": source, "HF_MODULES_CACHE": str(scratch / f"modules-{way}")}
    reader = scratch / "reader.py"
    reader.write_text((HERE / "compact_reader.py").read_text())
    command = [sys.executable, str(reader), way, "again" if again else "once", *map(str, folders)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
