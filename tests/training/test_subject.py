"""A profile of non-uniform sparsity from a checkpoint, a level database and a text, on a tiny model."""

import contextlib
import json
import random
import sqlite3

import pytest
import torch
from processor import SAME_BITS
from tiny import tiny_model, tiny_tokenizer
from tiny_settings import tiny_settings

from unicuco_plugin.answering import load_profile
from unicuco_plugin.errors import LevelsError, ModelMismatchError, RequestError, StrategyError
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.request import Request
from unicuco_plugin.spaces.plan import plan_counts
from unicuco_plugin.training import JOURNAL, UnitOptions, even_slopes, train_profile

pytestmark = pytest.mark.slow

TINY = tiny_settings(initial=24, steps=10, picks=4, rerank=1, focus=0.8, imitation=50)


@pytest.fixture(scope="module")
def dense(save_model):
    return save_model(blocks=3)


@pytest.fixture(scope="module")
def levels(dense, tmp_path_factory):
    windows = torch.randint(3, 30, (4, 16), generator=torch.Generator().manual_seed(0))
    settings = LevelSettings(sparsities=(0.2, 0.4, 0.6, 0.8, 0.9), block_size=16)
    folder = tmp_path_factory.mktemp("levels") / "db"
    return build_levels(find_decoder(load_model(dense)), windows, folder, name="tiny", settings=settings)


def run(dense, text, levels, output, *, resume=False, **units):
    fields = {"space": "sparsity", "calibration": [text], "settings": TINY, "resume": resume}
    return train_profile(dense, output, units=UnitOptions(levels=levels.folder, **units), **fields)


@pytest.fixture(scope="module")
def trained(dense, text, levels, tmp_path_factory):
    output = tmp_path_factory.mktemp("profiles") / "tiny-sparsity"
    return output, run(dense, text, levels, output)


def test_every_linear_is_a_unit_and_every_twentieth_a_budget(trained, levels):
    _, profile = trained
    assert profile.units == tuple(levels.sizes)
    assert profile.answer(sparsity=0.5).levels == levels.record.identity
    assert profile.unit_params == tuple(levels.sizes.values())
    front = load_profile(trained[0]).front()
    assert [round(strategy.sparsity, 9) for strategy in front] == [round(0.05 * k, 9) for k in range(1, 18)]
    # Some budgets may be won by what was confirmed at the one beside them, moved over.
    assert sum(strategy.divergence.measured for strategy in front) >= 13


@pytest.mark.parametrize("granularity", ["block", "sublayer"])
def test_coarser_units_are_trained_too(dense, text, levels, granularity, tmp_path):
    profile = run(dense, text, levels, tmp_path / "coarse", granularity=granularity)
    assert len(profile.units) == {"block": 3, "sublayer": 6}[granularity]
    assert sum(profile.unit_params) == sum(levels.sizes.values())


def test_answers_meet_any_request_to_the_weight(trained, levels):
    _, profile = trained
    total = sum(levels.sizes.values())
    chance = random.Random(1)  # noqa: S311
    requests = [Request.of(sparsity=chance.uniform(0.1, 0.85)) for _ in range(20)]
    for request, strategy in zip(requests, profile.answer_many(requests), strict=True):
        assert strategy.sparsity == pytest.approx(request.sparsity, abs=1e-12)
        assert sum(plan_counts(strategy.units, levels.sizes).values()) == round(request.sparsity * total)
        assert (strategy.params, strategy.bytes) == (
            profile.record.sizes.total_params,
            profile.record.sizes.total_bytes,
        )


def test_an_answer_between_budgets_is_deterministic_and_does_not_depend_on_its_company(trained):
    output, profile = trained
    alone = profile.answer(sparsity=0.5321)
    together = load_profile(output).answer_many([Request.of(sparsity=s) for s in (0.3, 0.5321, 0.7)])[1]
    if SAME_BITS:
        assert alone == together
    assert alone.units == pytest.approx(together.units, abs=1e-9)
    assert alone.source == together.source


def test_the_largest_sparsity_within_a_divergence_lies_between_budgets(trained):
    _, profile = trained
    limit = 0.5 * sum(profile.answer(sparsity=s).divergence.interval90[1] for s in (0.5, 0.55))
    found = profile.answer(max_divergence=limit)
    assert found.divergence.interval90[1] <= limit
    # Intervals need not rise with the sparsity: a well measured strategy may stand beyond a badly measured one.
    within = [s for s in profile.search_space.budgets if profile.answer(sparsity=s).divergence.interval90[1] <= limit]
    assert max(within) - 1e-9 <= found.sparsity < max(within) + 0.05


def test_a_preference_is_answered(trained):
    _, profile = trained
    small, good = (profile.answer(preference=pair) for pair in ((0.95, 0.05), (0.05, 0.95)))
    assert small.sparsity > good.sparsity


@pytest.mark.parametrize("request_", [{"max_params": 1000}, {"max_bytes": 1000}])
def test_sizes_cannot_be_asked_of_zeros_in_a_dense_file(trained, request_):
    kind = next(iter(request_))
    with pytest.raises(RequestError, match=rf"^{kind} cannot be asked of space 'sparsity': zeros in a dense file"):
        trained[1].answer(**request_)


def test_a_budget_beyond_the_ladder_is_refused_with_what_can_be_had(trained):
    with pytest.raises(
        RequestError, match=r"^sparsity must be in \(0, 0\.9\], which the units. bounds allow .*, got 0\.95$"
    ):
        trained[1].answer(sparsity=0.95)


def test_ignored_linears_stay_dense_and_bounds_hold(dense, text, levels, tmp_path):
    profile = run(
        dense, text, levels, tmp_path / "bounded", ignore=("re:.*v_proj",), bounds={"re:.*down_proj": (0.3, 0.5)}
    )
    strategy = profile.answer(sparsity=0.6)
    assert not any("v_proj" in unit for unit in strategy.units)
    shares = [share for unit, share in strategy.units.items() if "down_proj" in unit]
    assert len(shares) == 3
    assert all(0.3 <= share <= 0.5 for share in shares)
    assert load_profile(tmp_path / "bounded").answer(sparsity=0.6) == strategy


def test_what_starts_cost_is_counted_once_and_a_finished_run_resumes_to_the_same_profile(trained, dense, text, levels):
    output, profile = trained
    with contextlib.closing(sqlite3.connect(output / JOURNAL)) as connection:
        tokens = connection.execute("SELECT sum(tokens) FROM measurements").fetchone()[0]
    slopes, scores = 4 * 2 * 32 * 3, 2 * 32  # anchors, rounds, tokens, a backward pass's cost; OWL and DLP
    assert profile.provenance["start_tokens"] == slopes + scores
    assert profile.provenance["evaluation_tokens"] == tokens + profile.provenance["start_tokens"]
    before = json.loads((output / "profile.json").read_text(encoding="utf8"))["archive"]
    run(dense, text, levels, output, resume=True)
    assert json.loads((output / "profile.json").read_text(encoding="utf8"))["archive"] == before


def test_a_run_killed_between_slope_passes_measures_none_twice(  # noqa: PLR0917 - fixtures
    dense, text, levels, trained, tmp_path, monkeypatch
):
    real, calls = even_slopes.measure_slopes, []

    def dies_at(most):
        def measure(*args):
            if len(calls) == most:
                raise SystemExit("killed")
            calls.append(args)
            return real(*args)

        return measure

    monkeypatch.setattr(even_slopes, "measure_slopes", dies_at(3))
    with pytest.raises(SystemExit):
        run(dense, text, levels, tmp_path / "tiny-sparsity")
    monkeypatch.setattr(even_slopes, "measure_slopes", dies_at(99))
    resumed = run(dense, text, levels, tmp_path / "tiny-sparsity", resume=True)
    assert len(calls) == 8
    assert resumed.record.archive == trained[1].record.archive


def test_no_database_is_refused_before_anything_is_measured(dense, text, tmp_path):
    with pytest.raises(LevelsError, match=r"^the space 'sparsity' needs a level database: unicuco levels build"):
        train_profile(dense, tmp_path / "p", space="sparsity", calibration=[text], settings=TINY)


def test_a_database_of_another_model_is_refused(text, levels, tmp_path):
    other = tmp_path / "other"
    tiny_model("qwen3", blocks=3).save_pretrained(other)
    tiny_tokenizer(other)
    with pytest.raises(ModelMismatchError, match=r"^level database .* is for tiny"):
        run(other, text, levels, tmp_path / "p")


def test_what_belongs_to_sparsity_is_refused_elsewhere(dense, text, levels, tmp_path):
    with pytest.raises(
        LevelsError, match=r"^levels goes with the spaces 'sparsity', 'precision' and 'compound', not with 'depth'$"
    ):
        train_profile(dense, tmp_path / "p", calibration=[text], settings=TINY, units=UnitOptions(levels=levels.folder))


def test_an_unknown_unit_to_ignore_is_refused(dense, text, levels, tmp_path):
    with pytest.raises(StrategyError, match=r"^ignore 'nothing' matches none of 21 names"):
        run(dense, text, levels, tmp_path / "p", ignore=("nothing",))
