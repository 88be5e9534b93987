"""How much the toolkit says."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SAY = (
    "from unicuco_plugin.modifiers.toolkit.log import set_toolkit_verbosity\n"
    "from loguru import logger\n"
    "set_toolkit_verbosity(verbose={verbose})\n"
    "logger.info('some news'); logger.log('METRIC', 'a metric'); logger.warning('a warning')\n"
)


@pytest.mark.parametrize(
    ("verbose", "level", "stdout", "stderr"),
    [
        (False, None, [], ["a warning"]),
        (True, None, [], ["some news", "a metric", "a warning"]),
        (False, "INFO", ["some news", "a metric", "a warning"], []),
    ],
)
def test_warnings_go_to_standard_error_and_news_only_when_asked_for(verbose, level, stdout, stderr, monkeypatch):
    if level:
        monkeypatch.setenv("LLM_COMPRESSOR_LOG_LEVEL", level)
    program = [sys.executable, "-c", SAY.format(verbose=verbose)]
    run = subprocess.run(program, capture_output=True, text=True, check=True)
    for found, expected in ((run.stdout, stdout), (run.stderr, stderr)):
        assert [line.rpartition(" - ")[2] for line in found.splitlines()] == expected
