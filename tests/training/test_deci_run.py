"""Training for the form that vLLM loads: attentions whole, MLPs narrower, no biases."""

import re
from functools import partial

import pytest
import torch
from structured_parts import masked_logits
from test_structured_run import TINY
from tiny_settings import tiny_settings
from transformers import AutoModelForCausalLM

import unicuco_plugin
from unicuco_plugin.costs.memory import ServedCosts
from unicuco_plugin.errors import StrategyError, UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.modifiers.export.oneshot import prune
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.quantities import Load
from unicuco_plugin.training import UnitOptions, train_profile

UNITS = {"format": "deci"}


@pytest.fixture(scope="module")
def dense(save_model):
    return save_model(blocks=4)


@pytest.fixture(scope="module")
def train(run_training, dense):
    return partial(run_training, dense, "structured", TINY, round_to=8, **UNITS)


@pytest.mark.slow
@torch.no_grad()
def test_every_answer_fits_the_form_and_weighs_what_is_promised(trained, profile, dense, tmp_path):
    assert "model.layers.0.self_attn" not in profile.units
    attentions = [unit for unit in profile.units if unit.endswith("self_attn")]
    assert len(attentions) == 3
    gone = 0
    for strategy in profile.front():
        gone += sum(strategy.shares.get(unit, 0.0) == 1.0 for unit in attentions)
        assert all(strategy.shares.get(unit, 0.0) in (0.0, 1.0) for unit in attentions)
    assert gone


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
@torch.no_grad()
def test_a_checkpoint_is_the_model_that_was_measured_and_weighs_what_is_promised(
    share, trained, profile, dense, tmp_path
):
    whole = profile.costs.table
    asked = {"max_params": int(whole.total_params * (1 - share)), "max_bytes": int(whole.total_bytes * (1 - share))}
    strategy = profile.answer(**asked)
    done = prune(dense, SparsityProfileModifier(profile=str(trained[0]), request=asked), tmp_path / "out")
    assert done.format == "deci"  # without being asked for
    loaded = AutoModelForCausalLM.from_pretrained(done.path, trust_remote_code=True)
    assert loaded.num_parameters() == done.params == strategy.params <= asked["max_params"]
    assert 0 <= strategy.bytes - done.bytes <= 16 * len(loaded.state_dict()) + 64
    tokens = torch.arange(3, 40)[None]
    decoder = find_decoder(unicuco_plugin.load(dense))
    expected = masked_logits(decoder, profile.rank_parts().keep(decoder, strategy.shares), tokens)
    torch.testing.assert_close(loaded(tokens).logits, expected, atol=1e-5, rtol=1e-5)
    # Attentions that are gone keep nothing for a sequence.
    served = ServedCosts.under(profile.costs, Load(64))
    kept, all_ = (int(served.cache(served.row(units))) for units in (strategy.shares, {}))
    assert kept * 4 == all_ * (4 - sum(unit.endswith("self_attn") for unit in strategy.shares))
    recipe = (done.path / "recipe.yaml").read_text()
    assert "format: deci" in recipe
    again = prune(dense, done.path / "recipe.yaml", tmp_path / "again")
    assert again.format == "deci" and torch.equal(unicuco_plugin.load(again.path)(tokens).logits, loaded(tokens).logits)


@pytest.mark.slow
def test_with_a_compensation_answers_are_corrected_in_the_search_and_again_in_the_export(dense, text, tmp_path):
    few = tiny_settings(initial=6, picks=1, rerank=1)
    trained = train_profile(
        dense,
        tmp_path / "p",
        space="structured",
        units=UnitOptions(round_to=8, **UNITS),
        settings=few,
        calibration=[text],
        compensation="ridge",
    )
    assert trained.provenance["compensation"]["name"] == "ridge"
    strategy = trained.answer(sparsity=0.4)
    assert strategy.compensation == "ridge"
    modifier = SparsityProfileModifier(profile=str(tmp_path / "p"), request={"sparsity": 0.4})
    windows = torch.randint(4, 128, (8, 32), generator=torch.Generator().manual_seed(0))
    done = prune(dense, modifier, tmp_path / "out", calibration=windows)
    assert done.format == "deci" and done.params == strategy.params
    assert done.divergence_note.startswith("with corrections from the profile's text")
    before, after = map(float, re.findall(r"(\d\.\d+) nats per token without and (\d\.\d+) with", done.notes[0])[0])
    with torch.no_grad():
        p, q = (unicuco_plugin.load(path)(windows[::4]).logits.log_softmax(-1) for path in (dense, done.path))
    assert (p.exp() * (p - q)).sum(-1).mean().item() == pytest.approx(after, abs=1e-4) and after < before


@pytest.mark.slow
def test_widths_are_multiples_of_what_goes_together(profile):
    widths = {
        round(share * 48) for one in profile.front() for name, share in one.shares.items() if name.endswith("mlp")
    }
    assert len(widths) > 1 and all(width % 8 == 0 for width in widths)


def test_units_and_biases_must_agree(dense, tmp_path):
    def train(space="structured", **units):
        train_profile(dense, tmp_path / "p", space=space, units=UnitOptions(**units))

    with pytest.raises(StrategyError, match=r"no room for biases that stand for what goes: take --no-compensate"):
        train(format="deci", compensate=True)
    with pytest.raises(StrategyError, match=r"units mlp-width,heads do not fit the form deci, whose attentions go"):
        train(format="deci", units="mlp-width,heads")
    with pytest.raises(StrategyError, match=r"units must be mlp-width,heads or mlp-width,attention, got 'heads'"):
        train(units="heads")
    with pytest.raises(StrategyError, match="units goes with the space 'structured', not with 'depth'"):
        train("depth", units="mlp-width,attention")
    with pytest.raises(StrategyError, match="format goes with the spaces 'sublayer' and 'structured', not with 'depth"):
        train("depth", format="deci")


def test_units_name_the_form_too():
    named, formed = UnitOptions(units="mlp-width,attention"), UnitOptions(format="deci")
    assert named.form == formed.form == "deci"
    assert not named.biased and not formed.biased and UnitOptions().biased


def test_a_model_of_other_mathematics_is_refused_before_it_is_read(save_model, tmp_path):
    with pytest.raises(UnsupportedModelError, match="the form deci"):
        train_profile(save_model("qwen3"), tmp_path / "p", space="structured", units=UnitOptions(**UNITS))
