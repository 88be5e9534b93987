"""A process that trains in forked children on demand, so that a child can be killed at any moment and started again.

Everything slow to import is imported once. Each line of standard input is a JSON object with ``output``, ``seed``,
``resume`` and ``log``; the answer is the child's process id, and after its end its exit status. Every strategy that an
objective starts to measure is a line of ``log``.
"""

# ruff: noqa: T201 - it talks over its pipes

import json
import os
import sys
from pathlib import Path

import torch

from unicuco_plugin import training
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.training import makers

SETTINGS = {
    "tokens": 32, "seq_length": 16, "rank_tokens": 16, "rank_seq_length": 8, "initial": 120, "epochs": 3, "steps": 10,
    "pool": 64, "picks": 16, "starts": 1, "rerank": 3, "imitation": 10, "batch": 8, "target": "log", "focus": 1.0,
}  # fmt: skip


class Logged:
    """An objective that says what it is about to measure."""

    def __init__(self, objective, log):
        self.objective, self.log = objective, log

    def evaluate(self, X):
        """Log, then measure."""
        lines = "".join(f"{','.join(str(i) for i in row.nonzero()[:, 0].tolist())}\n" for row in X)
        with Path(self.log).open("a", encoding="utf8") as file:
            file.write(lines)
        return self.objective.evaluate(X)


def train(model, text, job):
    """Train one profile as the job says."""
    build = makers.build_objective
    makers.build_objective = lambda *what: Logged(build(*what), job["log"])
    settings = Settings(seed=job["seed"], **SETTINGS)
    training.train_profile(
        model, Path(job["output"]), calibration=[text], settings=settings, resume=job["resume"], overwrite=False
    )


def main(model, text):
    """Serve jobs until the input ends."""
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                train(model, text, json.loads(line))
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
