"""Commands killed at a write: what was there stays, the next run ends as an unbroken one, and nothing is left behind.

``benchmarks/kills.py`` kills every command that writes ten times and more; here it kills four of them once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"
COMMANDS = ["prune --overwrite", "unpack --overwrite", "levels build", "train"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What came of each command, all of them forked from one process that imports once."""
    output = tmp_path_factory.mktemp("kills") / "kills.json"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "UNICUCO_DISABLE_PLUGINS": "1"}
    command = [
        sys.executable,
        str(SCRIPT),
        "--only",
        *COMMANDS,
        "--kills",
        "1",
        "--pairs",
        "1",
        "--output",
        str(output),
    ]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert output.exists(), run.stderr
    return json.loads(output.read_text(encoding="utf8"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_a_write_goes_on_and_two_of_it_do_not_disturb_each_other(killed, name):
    found = killed["commands"][name]
    assert found["wrong"] == []
    [kill] = found["kills"]
    assert kill["at"].startswith("call ")
    assert kill["equal"]
    [pair] = found["two_processes"]
    assert 0 in pair["exit_codes"]
