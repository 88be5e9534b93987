"""Groups of units searched before the units, on a problem whose 1 022 answers are all known."""

import contextlib
import itertools
import math

import pytest
import torch

from unicuco_plugin.objectives.objective import Evaluation
from unicuco_plugin.search.coarse import Coarse, explore_coarse
from unicuco_plugin.search.journal import Journal
from unicuco_plugin.search.measuring import RANK, JournaledMeasure
from unicuco_plugin.search.scalarization import tchebycheff
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.search.trainer import train
from unicuco_plugin.spaces.sublayer import SublayerSpace

BLOCKS = 5
SPACE = SublayerSpace(tuple(f"b.{i}.{half}" for i in range(BLOCKS) for half in ("attn", "mlp")), (10, 10) * BLOCKS)
COARSE = Coarse(SublayerSpace(tuple(f"b.{i}" for i in range(BLOCKS)), (20,) * BLOCKS), SPACE.blocks, "whole blocks")
SETTINGS = Settings(
    initial=12, epochs=3, steps=5, pool=40, picks=4, starts=1, rerank=1, focus=1.0, batch=4, target="log",
    tokens=64, seq_length=16, rank_tokens=64, rank_seq_length=16,
)  # fmt: skip


def value_of(x, shift=0.0):
    """Half a block costs nearly what the block does, so that whole blocks are the best there is."""
    blocks = x.view(BLOCKS, 2)
    weight = torch.arange(1.0, BLOCKS + 1, dtype=torch.float64) / 4
    return math.exp((weight * (0.8 * blocks.max(1).values + 0.2 * blocks.mean(1))).sum().item() - 1.0 + shift)


class PairObjective:
    """Counts what it is asked."""

    def __init__(self, shift=0.0):
        self.shift, self.batches = shift, []

    def evaluate(self, X):
        self.batches.append([SPACE.key(row) for row in X])
        values = [value_of(row, self.shift) for row in X]
        return [Evaluation(v, (0.9 * v, 1.1 * v), 64, 0.0) for v in values]


def fresh():
    return {name: PairObjective(0.02 * i) for i, name in enumerate(("rank", "rerank", "confirm"))}


def run(path, objectives, *, coarse=COARSE, progress=lambda _: None):
    makers = {name: (lambda name=name: objectives[name]) for name in objectives}
    with Journal.open(path, {"seed": 0}, resume=True) as journal:
        measure = JournaledMeasure(journal, SPACE, makers, SETTINGS.batch)
        return train(SPACE, measure, tchebycheff, SETTINGS, progress, coarse=coarse)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run(tmp_path_factory.mktemp("run") / "j", fresh())


def summary(result):
    rows = [[(row.key, row.value) for row in lot] for lot in (result.ranked, result.reranked, result.confirmed)]
    return rows, result.net(torch.tensor([[0.5, 0.5]], dtype=torch.float64)).tolist(), result.epochs


def optimum(count):
    sets = (row for row in map(torch.tensor, itertools.product((0.0, 1.0), repeat=10)) if row.sum() == count)
    return min(value_of(row.double()) for row in sets)


def test_every_unit_takes_its_groups_share():
    x = torch.tensor([[1.0, 0, 0, 0, 1]], dtype=torch.float64)
    assert SPACE.key(COARSE.expand(x)[0]) == "0,1,8,9"


def test_each_unit_gets_what_its_group_got():
    refined = COARSE.refine(SETTINGS)
    assert (refined.initial, refined.picks) == (2 * SETTINGS.initial, 2 * SETTINGS.picks)
    assert refined.model_copy(update={"initial": SETTINGS.initial, "picks": SETTINGS.picks}) == SETTINGS


def groups_alone(path, objectives):
    with Journal.open(path, {}, resume=False) as journal:
        measure = JournaledMeasure(journal, SPACE, {RANK: lambda: objectives["rank"]}, SETTINGS.batch)
        return explore_coarse(COARSE, SPACE, measure, tchebycheff, SETTINGS)


def test_groups_are_measured_as_strategies_of_the_space(tmp_path):
    objectives = fresh()
    rows = groups_alone(tmp_path / "j", objectives)
    assert {row.key for row in rows} == {key for batch in objectives["rank"].batches for key in batch}
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        x = SPACE.parse(row.key).view(BLOCKS, 2)
        assert torch.equal(x[:, 0], x[:, 1])
        assert row.value == value_of(x.flatten())
    assert objectives["confirm"].batches == []


def test_what_groups_taught_is_known_to_the_search_over_units(tmp_path, trained):
    known = {row.key for row in groups_alone(tmp_path / "j", fresh())}
    keys = [row.key for row in trained.ranked]
    assert known < set(keys)
    assert len(keys) == len(set(keys)) == len(trained.posterior.X)
    # The space's own strategies come first, and they alone judge the target: no search had picked them.
    refined = COARSE.refine(SETTINGS)
    first = map(SPACE.key, SPACE.first(refined.initial, refined.generator(2), refined.focus))
    own = [key for key in first if key not in known]
    assert keys[: len(own)] == own


def test_where_whole_groups_are_best_they_are_answered(trained):
    confirmed = {int(SPACE.parse(row.key).sum()): row for row in trained.confirmed}
    assert sorted(confirmed) == list(range(1, 10))
    for count in (2, 4, 6, 8):
        assert value_of(SPACE.parse(confirmed[count].key)) == pytest.approx(optimum(count))


@pytest.mark.parametrize("survived", [0, 1, 3, 5, 8, 11])
def test_a_run_that_ends_after_any_batch_resumes_to_the_same_result(tmp_path, trained, survived):
    class Stop(BaseException):
        """Ends a run as a kill would."""

    objectives, done = fresh(), itertools.count()
    for objective in objectives.values():
        evaluate = objective.evaluate

        def counted(X, evaluate=evaluate):
            if next(done) == survived:
                raise Stop
            return evaluate(X)

        objective.evaluate = counted
    with contextlib.suppress(Stop):
        run(tmp_path / "j", objectives)
    again = fresh()
    assert summary(run(tmp_path / "j", again)) == summary(trained)
    for name, objective in again.items():
        before = {key for batch in objectives[name].batches for key in batch}
        assert before.isdisjoint(key for batch in objective.batches for key in batch)


def test_progress_counts_through_both_searches(tmp_path):
    seen = []
    result = run(tmp_path / "j", fresh(), progress=seen.append)
    done = [event.done for event in seen]
    assert done == sorted(done)
    assert done[-1] == len(result.ranked) + len(result.reranked) + len(result.confirmed)
    assert all(event.done <= event.total for event in seen)
    assert seen[-1].tokens == 64 * done[-1]
    stages = [event.stage for event in seen]
    assert stages[0].startswith("whole blocks: ")
    assert stages[-1] == "confirming"


def test_ctrl_c_among_the_groups_has_nothing_to_show_and_keeps_what_was_measured(tmp_path, trained):
    def interrupt(event):
        if event.stage.startswith("whole blocks: epoch"):
            raise KeyboardInterrupt

    objectives = fresh()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "j", objectives, progress=interrupt)
    measured = {key for batch in objectives["rank"].batches for key in batch}
    assert len(measured) >= 10
    again = fresh()
    assert summary(run(tmp_path / "j", again)) == summary(trained)
    assert measured.isdisjoint(key for batch in again["rank"].batches for key in batch)
