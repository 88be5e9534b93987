"""Units without effect, from training to an answer: they cost nothing and go first."""

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from tiny_settings import tiny_settings

from unicuco_plugin.objectives.floor import LEAST
from unicuco_plugin.training import train_profile

pytestmark = pytest.mark.slow

TINY = tiny_settings(initial=12, picks=4, rerank=1)
IDLE = (1, 3)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A model as block expansion begins: two blocks add nothing to what passes them."""
    folder = tmp_path_factory.mktemp("models") / "expanded"
    model = tiny_model("llama", blocks=4)
    with torch.no_grad():
        for index in IDLE:
            model.model.layers[index].self_attn.o_proj.weight.zero_()
            model.model.layers[index].mlp.down_proj.weight.zero_()
    model.save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


@pytest.mark.parametrize("space", ["depth", "sublayer"])
def test_what_has_no_effect_goes_first_and_is_told_to_cost_nothing(dense, text, tmp_path, space):
    profile = train_profile(dense, tmp_path / space, space=space, calibration=[text], settings=TINY)
    for share in (0.25, 0.5):
        strategy = profile.answer(sparsity=share)
        assert {int(name.split(".")[2]) for name in strategy.units} <= set(IDLE)
        assert strategy.divergence.mean == 0.0
        assert strategy.divergence.interval90 == (0.0, LEAST)
        assert strategy.divergence.measured
    beyond = profile.answer(sparsity=0.75)
    assert {int(name.split(".")[2]) for name in beyond.units} > set(IDLE)
    assert beyond.divergence.mean > LEAST
    ranked = {entry.strategy: entry.rank for entry in profile.record.archive if entry.measured}
    assert min(ranked.values()) == LEAST
