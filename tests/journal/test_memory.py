"""What one run has measured costs the next nothing."""

import torch

from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.memory import RememberedObjective
from unicuco_plugin.objectives.objective import Evaluation
from unicuco_plugin.spaces.depth import DepthSpace


def test_a_remembered_measurement_is_not_made_again(tmp_path):
    space = DepthSpace(("a.0", "a.1", "a.2"), (1, 1, 1))
    asked = []

    class Counting:
        def evaluate(self, X):
            asked.append(len(X))
            return [Evaluation(1.0 + row.sum().item(), (1.0, 2.0), 5, 0.1) for row in X]

    X = space.first(3, torch.Generator().manual_seed(0))
    with Journal.open(tmp_path / "j.sqlite", {}, resume=True) as journal:
        first = RememberedObjective(Counting, journal, space, "w").evaluate(X[[0, 1, 0]])
        again = RememberedObjective(Counting, journal, space, "w").evaluate(X)
        other = RememberedObjective(Counting, journal, space, "other").evaluate(X[:1])
    assert asked == [2, 1, 1]
    assert first[0] == first[2] == again[0] == other[0]
