"""How much the toolkit says."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

EVERYTHING = ["some news", "a metric", "a warning"]
# Verbose; a level in the environment; standard output and error.
CASES = [(False, None, [], ["a warning"]), (True, None, [], EVERYTHING), (False, "INFO", EVERYTHING, [])]
# The toolkit looks at the environment when it is imported: in a process for each case, after what takes long, once.
SAY = """
import json, os, sys
import compressed_tensors, datasets, transformers

def say(verbose, level):
    os.environ |= {"LLM_COMPRESSOR_LOG_LEVEL": level} if level else {}
    from unicuco_plugin.modifiers.toolkit.log import set_toolkit_verbosity
    from loguru import logger
    set_toolkit_verbosity(verbose=verbose)
    logger.info("some news"); logger.log("METRIC", "a metric"); logger.warning("a warning")

for place, (verbose, level, *_) in enumerate(json.loads(sys.argv[1])):
    if not (child := os.fork()):
        for stream in (1, 2):
            os.dup2(os.open(f"{place}-{stream}", os.O_WRONLY | os.O_CREAT), stream)
        say(verbose, level)
        sys.exit()
    if os.waitpid(child, 0)[1]:
        sys.exit(open(f"{place}-2").read())
"""


@pytest.fixture(scope="module")
def machine():
    """Has no say in this, so once is enough."""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The folder with what was said in every case."""
    folder = tmp_path_factory.mktemp("said")
    program = [sys.executable, "-c", SAY, json.dumps(CASES)]
    run = subprocess.run(program, capture_output=True, text=True, cwd=folder, check=False)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.parametrize("case", CASES, ids=["plain", "verbose", "by the environment"])
def test_warnings_go_to_standard_error_and_news_only_when_asked_for(case, said):
    for stream, expected in enumerate(case[2:], start=1):
        found = (said / f"{CASES.index(case)}-{stream}").read_text(encoding="utf8")
        assert [line.rpartition(" - ")[2] for line in found.splitlines()] == expected
