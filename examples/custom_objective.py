"""A plugin that adds an objective: the divergence of the worst tenth of windows, instead of the mean over all.

A mean hides texts that a pruned model ruins. This objective reuses the package's evaluator and changes only how its
windows are averaged. To install it as a plugin, put this file into a package and name it in the ``pyproject.toml``:

    [project]
    name = "unicuco-tail"

    [project.entry-points.unicuco]
    tail = "custom_objective"

Then ``unicuco plugins`` lists ``tail_divergence``, and ``train_profile(..., objective="tail_divergence")`` trains for
it. As a script it registers itself and trains:

    python examples/custom_objective.py MODEL OUTPUT [TEXT...]
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from unicuco_plugin import (
    DivergenceObjective,
    Evaluation,
    Objective,
    ObjectiveRequest,
    Settings,
    hookimpl,
    plugin_manager,
    train_profile,
)

NAME = "tail_divergence"
WORST = 0.1


def tail_mean(values: Sequence[float]) -> float:
    """Mean of the largest tenth of the values, but of at least one."""
    count = max(math.ceil(WORST * len(values)), 1)
    return math.fsum(sorted(values)[-count:]) / count


class TailDivergence:
    """Mean KL per token over the worst tenth of the windows, nats."""

    def __init__(self, request: ObjectiveRequest) -> None:
        self._divergence = DivergenceObjective(request)

    def evaluate(self, X: Tensor) -> list[Evaluation]:
        """Measure ``n x d`` strategies, in order."""
        return [
            dataclasses.replace(evaluation, value=tail_mean(evaluation.per_window))
            for evaluation in self._divergence.evaluate(X)
        ]


@hookimpl
def unicuco_list(kind: str) -> list[str]:
    """Name what this plugin adds."""
    return [NAME] if kind == "objective" else []


@hookimpl
def unicuco_make_objective(name: str, request: ObjectiveRequest) -> Objective | None:
    """Build the objective if it is ours."""
    return TailDivergence(request) if name == NAME else None


def main(model: str, output: str, *texts: str, settings: Settings | None = None) -> None:
    """Train a depth profile on the tail of its windows, and print its front."""
    manager = plugin_manager()
    if not manager.is_registered(sys.modules[__name__]):
        manager.register(sys.modules[__name__], name="tail")
    # Enough tokens that the worst tenth of the ranking windows is more than one window.
    settings = settings or Settings(rank_tokens=4096, tokens=16384)
    profile = train_profile(model, Path(output), objective=NAME, calibration=texts, settings=settings)
    for strategy in profile.front():
        print(f"{len(strategy.units)} blocks: {strategy.divergence.mean:.3f} nats/token in the worst windows")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
