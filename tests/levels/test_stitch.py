"""Plans in a live model."""

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.errors import LevelsError
from unicuco_plugin.levels.linear import LinearLevels
from unicuco_plugin.levels.realise import realise
from unicuco_plugin.levels.stitch import Stitcher, stitch
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import find_decoder

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"


def linears_of(decoder):
    return decoder.linears(0) | decoder.linears(1)


@pytest.fixture
def dense(decoder):
    """Where the dense weights are, and what they are."""
    return {
        name: (linear.weight.data_ptr(), linear.weight.detach().clone()) for name, linear in linears_of(decoder).items()
    }


def assert_dense(decoder, dense):
    for name, linear in linears_of(decoder).items():
        pointer, weight = dense[name]
        assert linear.weight.data_ptr() == pointer
        assert torch.equal(linear.weight, weight)


def zeros_of(decoder):
    return {name: int((linear.weight == 0).sum()) for name, linear in linears_of(decoder).items()}


def test_every_linear_has_the_zeros_of_the_plan_and_the_dense_weights_come_back(decoder, levels, dense):
    plan = {name: (size * (3 + index)) // 20 + index for index, (name, size) in enumerate(levels.sizes.items())}
    with Stitcher(decoder, levels) as stitcher:
        assert set(stitcher.apply(plan)) == set(plan)
        assert zeros_of(decoder) == plan == stitcher.counts
    assert_dense(decoder, dense)


def test_only_what_changed_is_swapped(decoder, levels, dense):
    with Stitcher(decoder, levels) as stitcher:
        assert stitcher.apply({Q: 300, DOWN: 900}) == (Q, DOWN)
        kept = decoder.linears(1)[DOWN].weight.data_ptr()
        assert stitcher.apply({Q: 301, DOWN: 900}) == (Q,)
        assert decoder.linears(1)[DOWN].weight.data_ptr() == kept
        assert stitcher.apply({DOWN: 900}) == (Q,)
        assert decoder.linears(0)[Q].weight.data_ptr() == dense[Q][0]
        assert stitcher.apply({}) == (DOWN,)
        assert_dense(decoder, dense)


def test_the_dense_weights_come_back_after_an_exception(decoder, levels, dense):
    with pytest.raises(ZeroDivisionError), Stitcher(decoder, levels) as stitcher:
        stitcher.apply({Q: 300})
        raise ZeroDivisionError
    assert_dense(decoder, dense)


def test_a_plan_that_cannot_be_changes_nothing(decoder, levels, dense):
    with Stitcher(decoder, levels) as stitcher:
        with pytest.raises(LevelsError, match=r"plan names 'lm_head', which level database .* does not have"):
            stitcher.apply({Q: 300, "lm_head": 1})
        with pytest.raises(LevelsError, match=r"plan: .*down_proj must have an integer count of zeros in \[0, 1536\]"):
            stitcher.apply({Q: 300, DOWN: 1537})
        assert_dense(decoder, dense)


def test_applying_works_in_inference_mode_and_the_model_still_trains(decoder, levels):
    with Stitcher(decoder, levels) as stitcher:
        with torch.inference_mode():
            stitcher.apply({Q: 300})
        weight = decoder.linears(0)[Q].weight
        (weight.float().square().sum()).backward()
        assert weight.grad is not None


@pytest.mark.parametrize("room", [0, 3000, 2**30], ids=["nothing", "a level", "everything"])
def test_the_cache_stays_within_its_bytes_and_changes_no_weight(decoder, levels, room, monkeypatch):
    decoded = []
    decode = LinearLevels.decode

    def counting(self, level, device="cpu"):
        decoded.append(level)
        return decode(self, level, device)

    monkeypatch.setattr(LinearLevels, "decode", counting)
    levels = Levels.open(levels.folder)  # nothing read yet
    with Stitcher(decoder, levels, cache_bytes=room) as stitcher:
        for count in (600, 601, 602):
            stitcher.apply({Q: count, DOWN: count})
            for name in (Q, DOWN):
                linear = linears_of(decoder)[name]
                expected = realise(levels.linear(name), stitcher._dense[name], count)
                assert torch.equal(linear.weight, expected)
            assert levels.decoded.bytes <= room
    # Each count needs two levels of Q and two of DOWN; the expected weights decode them in any case.
    asked = len(decoded) - 3 * 4
    assert asked == (4 if room == 2**30 else asked)
    assert asked == (12 if room == 0 else asked)


def test_stitched_for_good_a_model_answers_as_with_the_plan_applied(decoder, levels, windows):
    plan = {name: size // 2 for name, size in levels.sizes.items()}
    model = decoder.model
    with torch.inference_mode():
        before = model(windows).logits
        with Stitcher(decoder, levels) as stitcher:
            stitcher.apply(plan)
            applied = model(windows).logits
        assert torch.equal(model(windows).logits, before)
        stitch(decoder, levels, plan)
        assert torch.equal(model(windows).logits, applied)
    assert not torch.equal(before, applied)
    assert zeros_of(decoder) == plan


def test_a_plan_refused_leaves_the_model_dense(decoder, levels, dense):
    with pytest.raises(LevelsError):
        stitch(decoder, levels, {Q: -1})
    assert_dense(decoder, dense)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: tiny_model("llama", blocks=1).bfloat16(), "the model has no linear of that name"),
        (lambda: tiny_model("llama", blocks=2), r"is \(32, 32\) in bfloat16 there, \(32, 32\) in float32 in the model"),
        (
            lambda: tiny_model("phi3", blocks=2).bfloat16(),
            "has model.layers.0.self_attn.q_proj, the model has no linear",
        ),
    ],
    ids=["fewer blocks", "another dtype", "another family"],
)
def test_another_model_is_refused(levels, model, message):
    with pytest.raises(LevelsError, match=message):
        Stitcher(find_decoder(model()), levels)
