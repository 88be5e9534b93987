"""Groups of units searched before the units, on a problem whose 1 022 answers are all known."""

import itertools
import math

import pytest
import torch

from unicuco_plugin.journal.journal import Journal, Measurement
from unicuco_plugin.journal.measuring import RANK, JournaledMeasure
from unicuco_plugin.objectives.executor import InPlace, Objectives
from unicuco_plugin.objectives.objective import Evaluation
from unicuco_plugin.policy.scalarization import tchebycheff
from unicuco_plugin.search.groups import Groups, explore_groups
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.search.trainer import train
from unicuco_plugin.spaces.sublayer import SublayerSpace

BLOCKS = 5
SPACE = SublayerSpace(tuple(f"b.{i}.{half}" for i in range(BLOCKS) for half in ("attn", "mlp")), (10, 10) * BLOCKS)
GROUPS = Groups(SublayerSpace(tuple(f"b.{i}" for i in range(BLOCKS)), (20,) * BLOCKS), SPACE.blocks, "whole blocks")
SETTINGS = Settings(
    initial=12, epochs=2, steps=5, pool=40, picks=4, starts=1, rerank=1, focus=1.0, batch=4, target="log",
    tokens=64, seq_length=16, rank_tokens=64, rank_seq_length=16, imitation=10,
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


def run(path, objectives, *, progress=lambda _: None):
    makers = {name: (lambda name=name: objectives[name]) for name in objectives}
    with Journal.open(path, {"seed": 0}, resume=True) as journal:
        measure = JournaledMeasure(journal, SPACE, InPlace(Objectives(makers), SETTINGS.batch))
        return train(SPACE, measure, tchebycheff, SETTINGS, progress, groups=GROUPS)


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
    assert SPACE.key(GROUPS.expand(x)[0]) == "0,1,8,9"


def test_each_unit_gets_what_its_group_got():
    refined = GROUPS.unit_settings(SETTINGS)
    assert (refined.initial, refined.picks) == (2 * SETTINGS.initial, 2 * SETTINGS.picks)
    assert refined.model_copy(update={"initial": SETTINGS.initial, "picks": SETTINGS.picks}) == SETTINGS


def groups_alone(path, objectives):
    with Journal.open(path, {}, resume=False) as journal:
        measure = JournaledMeasure(
            journal, SPACE, InPlace(Objectives({RANK: lambda: objectives["rank"]}), SETTINGS.batch)
        )
        return explore_groups(GROUPS, SPACE, measure, tchebycheff, SETTINGS)


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_groups_taught_is_known_to_the_search_over_units(tmp_path, trained):
    known = {row.key for row in groups_alone(tmp_path / "j", fresh())}
    keys = [row.key for row in trained.ranked]
    assert known < set(keys)
    assert len(keys) == len(set(keys)) == len(trained.posterior.X)
    # The space's own strategies come first, and they alone judge the target: no search had picked them.
    refined = GROUPS.unit_settings(SETTINGS)
    first = map(SPACE.key, SPACE.first(refined.initial, refined.generator(2), refined.focus))
    own = [key for key in first if key not in known]
    assert keys[: len(own)] == own


@pytest.mark.slow
def test_where_whole_groups_are_best_they_are_answered(trained):
    confirmed = {int(SPACE.parse(row.key).sum()): row for row in trained.confirmed}
    assert sorted(confirmed) == list(range(1, 10))
    for count in (2, 4, 6, 8):
        assert value_of(SPACE.parse(confirmed[count].key)) == pytest.approx(optimum(count))


@pytest.mark.slow
def test_searching_groups_first_finds_what_as_many_measurements_of_units_do_not():
    blocks = 10
    names = [f"b.{i}.{half}" for i in range(blocks) for half in ("attn", "mlp")]
    space = SublayerSpace(tuple(names), (10, 30) * blocks)
    groups = Groups(SublayerSpace(tuple(f"b.{i}" for i in range(blocks)), (40,) * blocks), space.blocks, "blocks")
    weight = torch.randn(blocks, generator=torch.Generator().manual_seed(1), dtype=torch.float64).exp()

    def cost(x):
        pair = x.view(blocks, 2)
        return math.exp((weight * (0.95 * pair.max(1).values + 0.05 * pair.mean(1))).sum().item() / 4 - 2.0)

    def measure(fidelity, X, report):
        report(len(X))
        return [Measurement(space.key(x), fidelity, cost(x), (cost(x),), 8, 0.0) for x in X]

    def found(settings, chosen):
        result = train(space, measure, tchebycheff, settings, groups=chosen)
        confirmed = {round(space.sparsity(x[None]).item() * blocks, 6): cost(x) for x in map(space.parse, keys(result))}
        return [confirmed[count] for count in (2.0, 4.0, 6.0)], len(result.ranked)

    best = [cost(groups.expand(torch.zeros(blocks).scatter(0, weight.argsort()[:n], 1.0)).double()) for n in (2, 4, 6)]
    few = SETTINGS.model_copy(update={"initial": 2 * blocks, "epochs": 2})
    grouped, count = found(few, groups)
    assert grouped == pytest.approx(best)
    alone, others = found(groups.unit_settings(few).model_copy(update={"epochs": 6}), None)
    assert others >= count
    assert max(a / b for a, b in zip(alone, best, strict=True)) > 1.02


def keys(result):
    return [row.key for row in result.confirmed]


@pytest.mark.slow
@pytest.mark.parametrize("survived", [0, 2, 5, 9, 12, 14, 16, 18])
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
    with pytest.raises(Stop):
        run(tmp_path / "j", objectives)
    again = fresh()
    assert summary(run(tmp_path / "j", again)) == summary(trained)
    for name, objective in again.items():
        before = {key for batch in objectives[name].batches for key in batch}
        assert before.isdisjoint(key for batch in objective.batches for key in batch)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["first strategies", "fitting the surrogate", "epoch 2 of 2", "confirming"])
def test_ctrl_c_among_the_units_gives_all_that_is_known(tmp_path, stage):
    pressed = []

    def interrupt(event):
        if event.stage == stage and not pressed:
            pressed.append(event)
            raise KeyboardInterrupt

    objectives = fresh()
    result = run(tmp_path / "j", objectives, progress=interrupt)
    assert result.interrupted
    measured = {key for batch in objectives["rank"].batches for key in batch}
    assert {row.key for row in result.ranked} == measured
    assert len(result.posterior.X) == len(measured)


@pytest.mark.slow
def test_blocks_of_two_sizes_teach_too():
    """No budget of the halves is a number of such blocks; what blocks showed is brought to the budgets beside it."""
    blocks = 6
    names = tuple(f"b.{i}.{half}" for i in range(blocks) for half in ("attn", "mlp"))
    space = SublayerSpace(names, (16, 50, *(16, 600) * (blocks - 1)))
    inner = SublayerSpace(tuple(f"b.{i}" for i in range(blocks)), (66, *(616,) * (blocks - 1)))
    groups = Groups(inner, space.blocks, "blocks")
    measured = []

    def measure(fidelity, X, report):
        report(len(X))
        measured.extend(space.key(x) for x in X)
        costs = [math.exp(x.view(blocks, 2).max(1).values.sum().item() - 2.0) for x in X]
        return [Measurement(space.key(x), fidelity, c, (c,), 8, 0.0) for x, c in zip(X, costs, strict=True)]

    result = train(space, measure, tchebycheff, SETTINGS, groups=groups)
    assert [space.sparsity(space.parse(key)[None]).item() for key in keys(result)] == pytest.approx(space.budgets)
    assert len({row.key for row in result.ranked}) == len(result.ranked)
