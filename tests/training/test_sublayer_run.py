"""The space ``sublayer`` from training to an answer, on a tiny model."""

import pytest
import torch
from tiny_settings import tiny_settings

from unicuco_plugin.answering import load_profile
from unicuco_plugin.costs.memory import ServedCosts
from unicuco_plugin.errors import RequestError, StrategyError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.sublayers import sublayer_params
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.modifiers.export.oneshot import prune
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.objectives.evaluator import BlockEvaluator, lacking_parts
from unicuco_plugin.pruning import apply_strategy
from unicuco_plugin.quantities import Load
from unicuco_plugin.training import UnitOptions, train_profile

pytestmark = pytest.mark.slow

TINY = tiny_settings(initial=16, epochs=2, picks=3, rerank=1)


@pytest.fixture(scope="module")
def dense(save_model):
    return save_model(blocks=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("profiles") / "sub"


@pytest.fixture(scope="module")
def profile(dense, folder):
    return train_profile(dense, folder, space="sublayer", settings=TINY)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.333, 0.5, 0.61, 0.8])
def test_an_answer_has_the_fewest_parameters_that_reach_the_share(profile, folder, dense, share):
    strategy = profile.answer(sparsity=share)
    sizes = list(sublayer_params(find_decoder(load_model(dense))).values())
    totals = {a * sizes[0] + m * sizes[1] for a in range(5) for m in range(5)}
    least = min(total for total in totals if total >= share * sum(sizes))
    assert strategy.sparsity == pytest.approx(least / sum(sizes), abs=1e-12)
    again = load_profile(folder).answer(sparsity=share)
    assert again == strategy


def test_parameters_are_those_of_the_checkpoint_where_whole_blocks_go_and_halves_stay(profile, dense):
    for strategy in profile.front():
        pruned = apply_strategy(load_model(dense), strategy)
        assert pruned.num_parameters() == strategy.params


def test_a_confirmed_divergence_is_what_the_evaluator_measures(profile, dense):
    strategy = next(strategy for strategy in profile.front() if strategy.divergence.measured)
    decoder = find_decoder(load_model(dense))
    windows = torch.randint(4, 128, (2, 16), generator=torch.Generator().manual_seed(0))
    [found] = BlockEvaluator(decoder, windows).evaluate_parts([lacking_parts(decoder, strategy.units)])
    pruned = apply_strategy(load_model(dense), strategy)
    with torch.no_grad():
        log_p, log_q = (m(windows, use_cache=False).logits.log_softmax(-1) for m in (decoder.model, pruned))
    assert found.value == pytest.approx((log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), rel=1e-4)


def test_whole_blocks_were_measured_before_and_are_known(profile):
    units = profile.record.units
    assert [unit.rpartition(".")[0] for unit in units[::2]] == [unit.rpartition(".")[0] for unit in units[1::2]]
    measured = [profile.search_space.parse(entry.strategy) for entry in profile.record.archive if entry.measured]
    whole = [x for x in measured if torch.equal(x[::2], x[1::2])]
    assert sum(int(x.sum()) == 2 for x in whole) == len(units) // 2
    assert any(int(x.sum()) > 2 for x in whole)
    assert len(whole) < len(measured)


def test_sizes_cannot_be_asked_for(profile):
    with pytest.raises(RequestError, match="max_params cannot be asked of space 'sublayer'"):
        profile.answer(max_params=10_000)


FEW = TINY.model_copy(update={"initial": 8, "epochs": 1, "picks": 1, "imitation": 20})


@pytest.fixture(scope="module")
def uneven(dense, tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiles") / "deci"
    return train_profile(dense, folder, space="sublayer", settings=FEW, units=UnitOptions(format="deci")), folder


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_trained_for_the_form_deci_limits_on_sizes_are_kept_on_disk(uneven, dense, share, tmp_path):
    profile, folder = uneven
    whole = profile.costs.table
    bytes_, params = int(whole.total_bytes * (1 - share)), int(whole.total_params * (1 - share))
    strategy = load_profile(folder).answer(max_bytes=bytes_, max_params=params)
    assert "model.layers.0.self_attn" not in strategy.units
    assert strategy.bytes <= bytes_ and strategy.params <= params
    asked = {"max_bytes": bytes_, "max_params": params}
    done = prune(dense, SparsityProfileModifier(profile=str(folder), request=asked), tmp_path / "out")
    assert done.format == "deci"  # whether or not it is asked for
    assert done.params == strategy.params
    assert 0 <= strategy.bytes - done.bytes <= 16 * len(done.model.state_dict()) + 64
    # Attentions that leave keep nothing for a sequence.
    served = ServedCosts.under(profile.costs, Load(64))
    kept, all_ = (int(served.cache(served.row(units))) for units in (strategy.units, {}))
    assert kept * 4 == all_ * (4 - sum(unit.endswith("self_attn") for unit in strategy.units))


def test_without_the_form_limits_on_sizes_are_refused(profile):
    with pytest.raises(RequestError, match="max_bytes cannot be asked of space 'sublayer'"):
        profile.answer(max_bytes=10**9)


def test_the_form_goes_with_halves_alone(dense, tmp_path):
    with pytest.raises(StrategyError, match="format goes with the spaces 'sublayer' and 'structured', not with 'depth"):
        train_profile(dense, tmp_path / "p", units=UnitOptions(format="deci"))
    with pytest.raises(StrategyError, match="format must be deci, or left out, got 'stock'"):
        train_profile(dense, tmp_path / "p", space="sublayer", units=UnitOptions(format="stock"))
