"""Algorithm 1 on a problem whose 1 024 answers are all known."""

import contextlib

import pytest
import torch
from analytic import SETTINGS, SPACE, AnalyticMeasure, AnalyticObjective, optimum, value_of
from processor import SAME_BITS

from unicuco_plugin.journal.journal import Journal, Measurement
from unicuco_plugin.journal.measuring import JournaledMeasure
from unicuco_plugin.objectives.executor import InPlace, Objectives
from unicuco_plugin.policy.scalarization import pbi, tchebycheff, weighted_sum
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.search.trainer import train
from unicuco_plugin.spaces.depth import DepthSpace

FAST = SETTINGS.model_copy(
    update={
        "initial": 14, "epochs": 2, "steps": 5, "imitation": 10, "picks": 4, "pool": 40, "starts": 1, "target": "log",
    }
)  # fmt: skip


def summary(result):
    """Everything of a result that must repeat, as plain numbers."""
    lam = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    return (
        [(r.key, r.value) for r in result.ranked],
        [(r.key, r.value) for r in result.reranked],
        [(r.key, r.value) for r in result.confirmed],
        result.net(lam).tolist(),
        {name: value.tolist() for name, value in result.posterior.to_tensors().items()},
        result.scaling,
        result.epochs,
        result.interrupted,
    )


@pytest.fixture(scope="module")
def trained():
    return train(SPACE, AnalyticMeasure(), tchebycheff, SETTINGS)


@pytest.fixture(scope="module")
def fast():
    return summary(train(SPACE, AnalyticMeasure(), tchebycheff, FAST))


@pytest.mark.slow
def test_the_true_optimum_is_found_at_most_budgets_for_a_twentieth_of_all_evaluations(trained):
    assert len(trained.ranked) <= 1024 / 20
    found = {row.key for row in trained.confirmed}
    hits = [optimum(count)[0] in found for count in range(1, 10)]
    assert sum(hits) >= 5
    for row in trained.confirmed:
        x = SPACE.parse(row.key)
        assert value_of(x) <= 1.25 * optimum(int(x.sum()))[1]


@pytest.mark.slow
def test_the_front_is_confirmed_once_at_every_budget(trained):
    assert [row.key.count(",") + 1 for row in trained.confirmed] == list(range(1, 10))
    assert {row.fidelity for row in trained.confirmed} == {"confirm"}
    assert not trained.interrupted


@pytest.mark.slow
def test_the_best_two_of_each_budget_are_reranked(trained):
    sizes = [row.key.count(",") + 1 for row in trained.reranked]
    assert sizes == sorted([*range(1, 10)] * 2)
    assert len({row.key for row in trained.reranked}) == len(sizes)


@pytest.mark.slow
def test_nothing_is_ranked_twice(trained):
    keys = [row.key for row in trained.ranked]
    assert len(keys) == len(set(keys))


@pytest.mark.slow
def test_the_network_alone_proposes_good_sets(trained):
    scores = trained.net(torch.tensor([[0.5, 0.5]], dtype=torch.float64)).detach()
    for count in (3, 5, 7):
        x = SPACE.project(scores, count / 10)[0]
        assert value_of(x) <= 1.5 * optimum(count)[1]


@pytest.mark.slow
def test_the_same_run_repeats_bit_for_bit(fast):
    torch.manual_seed(99)
    assert summary(train(SPACE, AnalyticMeasure(), tchebycheff, FAST)) == fast


@pytest.mark.slow
def test_another_seed_measures_other_strategies(fast):
    other = train(SPACE, AnalyticMeasure(), tchebycheff, FAST.model_copy(update={"seed": 1}))
    assert [row.key for row in other.ranked] != [key for key, _ in fast[0]]


def run_with_journal(path, objectives, settings=FAST):
    makers = {name: (lambda name=name: objectives[name]) for name in objectives}
    with Journal.open(path, {"seed": 0}, resume=True) as journal:
        return train(
            SPACE, JournaledMeasure(journal, SPACE, InPlace(Objectives(makers), settings.batch)), tchebycheff, settings
        )


def fresh():
    return {name: AnalyticObjective(0.02 * i) for i, name in enumerate(("rank", "rerank", "confirm"))}


class Stop(BaseException):
    """Ends a run as a kill would: nothing catches it."""


@pytest.mark.slow
@pytest.mark.parametrize("survived", [0, 3, 4, 6, 8, 12])
def test_a_run_that_ends_after_any_batch_resumes_to_the_same_result(tmp_path, fast, survived):
    objectives = fresh()
    done = 0

    def stopping(objective):
        evaluate = objective.evaluate

        def counted(X):
            nonlocal done
            if done == survived:
                raise Stop
            done += 1
            return evaluate(X)

        objective.evaluate = counted

    for objective in objectives.values():
        stopping(objective)
    with contextlib.suppress(Stop):
        run_with_journal(tmp_path / "j", objectives)
    again = fresh()
    assert summary(run_with_journal(tmp_path / "j", again)) == fast
    for name, objective in again.items():
        before = {key for batch in objectives[name].batches for key in batch}
        assert before.isdisjoint(key for batch in objective.batches for key in batch)


@pytest.mark.slow
def test_every_batch_has_at_most_the_size_asked_for(tmp_path):
    objectives = fresh()
    run_with_journal(tmp_path / "j", objectives)
    assert all(len(batch) <= FAST.batch for objective in objectives.values() for batch in objective.batches)


def test_ctrl_c_before_the_first_surrogate_has_nothing_to_show():
    with pytest.raises(KeyboardInterrupt):
        train(SPACE, AnalyticMeasure(interrupt_at=13), tchebycheff, FAST)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [14, 20, 30, 45])
def test_ctrl_c_later_gives_what_was_known(fast, moment):
    result = train(SPACE, AnalyticMeasure(interrupt_at=moment), tchebycheff, FAST)
    assert result.interrupted
    assert [(row.key, row.value) for row in result.ranked] == fast[0][: len(result.ranked)]
    assert result.posterior.mean(SPACE.parse("1,2")[None]).isfinite().all()
    assert result.net(torch.tensor([[0.5, 0.5]], dtype=torch.float64)).isfinite().all()


@pytest.mark.slow
def test_ctrl_c_between_measurements_gives_what_was_known():
    def interrupt(progress):
        if progress.stage == "training StratNet" and progress.done > 14:
            raise KeyboardInterrupt

    result = train(SPACE, AnalyticMeasure(), tchebycheff, FAST, interrupt)
    assert result.interrupted
    assert len(result.ranked) == 18


@pytest.mark.slow
def test_progress_counts_up_to_at_most_the_total_and_names_tokens():
    seen = []
    result = train(SPACE, AnalyticMeasure(), tchebycheff, FAST, seen.append)
    done = [p.done for p in seen]
    assert done == sorted(done)
    assert done[-1] == len(result.ranked) + len(result.reranked) + len(result.confirmed) <= seen[-1].total
    assert seen[-1].tokens == 64 * done[-1]
    assert any("measured" in p.message for p in seen)


@pytest.mark.slow
@pytest.mark.parametrize("scalarization", [weighted_sum, pbi])
@pytest.mark.parametrize("quality", ["log", "raw"])
def test_other_scalarizations_and_scales_run(scalarization, quality):
    result = train(SPACE, AnalyticMeasure(), scalarization, FAST.model_copy(update={"quality": quality}))
    assert len(result.confirmed) == 9


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"rerank": 0},
        {"epochs": 0},
        {"neighbours": False},
        {"target": "raw", "quality": "raw", "bound": "upper"},
        {"initial": 2, "epochs": 1},
        {"focus": 0.3},
        {"focus": 0.05},
    ],
    ids=str,
)
def test_the_corners_of_the_settings_still_confirm_every_budget(changes):
    settings = Settings(**(FAST.model_dump() | changes))
    result = train(SPACE, AnalyticMeasure(), tchebycheff, settings)
    assert len(result.confirmed) == 9
    focused = [row for row in result.ranked[settings.initial :] if row.key.count(",") + 1 > 10 * settings.focus + 1e-6]
    assert focused == []


@pytest.mark.slow
def test_what_is_negligible_is_hardly_searched_for():
    def picked(negligible):
        settings = FAST.model_copy(update={"verify": 0, "negligible": negligible})
        rows = train(SPACE, AnalyticMeasure(), tchebycheff, settings).ranked
        return sorted(row.value for row in rows[settings.initial :])

    plain = picked(0.0)
    middle = plain[len(plain) // 2]
    others = picked(10.0 * middle)
    assert others != plain
    below, before = (sum(value < middle for value in rows) for rows in (others, plain))
    assert below < before if SAME_BITS else below <= before


def additive(space):
    """Measures a cost that grows with the index of each removed unit."""

    def measure(fidelity, X, _):
        costs = 0.1 + X @ torch.arange(1.0, X.shape[1] + 1, dtype=torch.float64)
        return [Measurement(space.key(x), fidelity, c, (c,), 8, 0.0) for x, c in zip(X, costs.tolist(), strict=True)]

    return measure


@pytest.mark.slow
def test_plain_answers_are_measured_first_however_few_first_strategies_there_are():
    plain = SPACE.first(9, torch.Generator().manual_seed(7))
    keys = list(dict.fromkeys(SPACE.key(row) for row in plain))
    few = FAST.model_copy(update={"initial": 4, "epochs": 0})
    result = train(SPACE, AnalyticMeasure(), tchebycheff, few, first=plain, plain=keys)
    assert len(keys) > 4
    assert [row.key for row in result.ranked[: len(keys)]] == keys


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(4, 4), (4, 4, 4)], ids=str)
def test_the_smallest_spaces_train(sizes):
    space = DepthSpace(tuple(f"b.{i}" for i in range(len(sizes))), sizes)
    result = train(space, additive(space), tchebycheff, FAST)
    assert [row.key.count(",") + 1 for row in result.confirmed] == list(range(1, len(sizes)))
    assert result.confirmed[0].key == "0"
