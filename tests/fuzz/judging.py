"""Limits of memory and time for one input, and many inputs for one test.

``UNICUCO_FUZZ=5000`` tries so many inputs of each kind, other ones at every run; without it some tens, always the same.
"""

import os
import random
import resource
import signal
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

_LONG = int(os.environ.get("UNICUCO_FUZZ", "0"))
# Seconds that one input may take, on a machine that other jobs keep busy, and bytes that it may add to the process.
_SECONDS = 20
_BYTES = 3 * 2**29


@contextmanager
def limited():
    """Raise where an input takes more than its share of memory or time."""

    def late(*_):
        raise TimeoutError(f"an input took more than {_SECONDS} seconds")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def fuzz(examples):
    """Run a test with so many sources of randomness, each input judged: right, or refused by an error of ours."""

    def decorate(test):
        @settings(
            max_examples=_LONG or max(1, examples * settings.default.max_examples // 100),
            derandomize=not _LONG,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(seed=st.integers(0, 2**32))
        def run(judge, seed):
            test(judge, random.Random(seed))  # noqa: S311 - no secrets

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate
