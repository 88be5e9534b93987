"""How far a batch is, told while it runs."""

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.objectives.objective import ObjectiveRequest, ReportingObjective
from unicuco_plugin.objectives.work import Work
from unicuco_plugin.plugins.manager import make_objective, make_space

WINDOWS = torch.randint(4, 128, (3, 12), generator=torch.Generator().manual_seed(0))
CANDIDATES = [[0], [1, 3], [1, 4], [5], [], [1, 3]]


def test_work_is_told_as_candidates_and_never_more_than_there_are():
    told = []
    work = Work(told.append, 4, 8.0)
    for amount in (1.0, 3.0, 4.0, 4.0):
        work.add(amount)
    assert told == [0.5, 2.0, 4.0, 4.0]


@pytest.mark.parametrize("cache", [2**28, 0])
def test_a_batch_is_told_block_by_block_from_the_first_to_the_last(cache):
    evaluator = BlockEvaluator(find_decoder(tiny_model("llama")), WINDOWS, cache_bytes=cache)
    for _ in range(2):  # the second time with what is kept
        told = []
        parts = [[3 * (index in dropped) for index in range(6)] for dropped in CANDIDATES]
        evaluator.evaluate_parts(parts, told.append)
        assert told == sorted(told)
        assert told[-1] == pytest.approx(len(CANDIDATES))
        assert max(b - a for a, b in zip([0.0, *told], told, strict=False)) < 2.0 + 1e-9


def test_the_built_in_objective_reports_and_says_the_same_when_nobody_listens():
    decoder = find_decoder(tiny_model("llama"))
    space = make_space("depth", decoder.block_names, (1,) * 6)
    objective = make_objective("divergence", ObjectiveRequest(decoder, space, WINDOWS))
    assert isinstance(objective, ReportingObjective)
    X, told = torch.eye(6, dtype=torch.float64), []
    quiet = objective.evaluate(X)
    heard = objective.evaluate_reporting(X, told.append)
    assert [found.per_window for found in heard] == [found.per_window for found in quiet]
    assert told[-1] == pytest.approx(6.0)
