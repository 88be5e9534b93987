"""Training for the form that vLLM loads: attentions whole, MLPs narrower, no biases."""

from functools import partial

import pytest
import torch
from test_structured_run import TINY

import unicuco_plugin
from unicuco_plugin.errors import StrategyError, UnsupportedModelError
from unicuco_plugin.modifiers.export.oneshot import prune
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.training import UnitOptions, train_profile

UNITS = {"units": "mlp-width,attention", "compensate": False}


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
    for share in (0.2, 0.4, 0.6):
        modifier = SparsityProfileModifier(
            profile=str(trained[0]), request={"sparsity": share}, structured={"format": "deci"}
        )
        done = prune(dense, modifier, tmp_path / f"{share}")
        assert done.format == "deci"
        loaded = unicuco_plugin.load(done.path)
        # Norms of halves whose block stays are counted as if they stayed.
        norms = 32 * len(profile.answer(sparsity=share).units)
        assert 0 <= profile.answer(sparsity=share).params - loaded.num_parameters() <= norms


def test_units_and_biases_must_agree(dense, tmp_path):
    with pytest.raises(StrategyError, match="no-compensate"):
        train_profile(dense, tmp_path / "p", space="structured", units=UnitOptions(units="mlp-width,attention"))
    with pytest.raises(StrategyError, match=r"units must be mlp-width,heads or mlp-width,attention, got 'heads'"):
        train_profile(dense, tmp_path / "p", space="structured", units=UnitOptions(units="heads"))
    with pytest.raises(StrategyError, match="the space 'structured'"):
        train_profile(dense, tmp_path / "p", space="depth", units=UnitOptions(**UNITS))


def test_a_model_of_other_mathematics_is_refused_before_it_is_read(save_model, tmp_path):
    with pytest.raises(UnsupportedModelError, match="the form deci"):
        train_profile(save_model("qwen3"), tmp_path / "p", space="structured", units=UnitOptions(**UNITS))
