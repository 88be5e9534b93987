"""What memory has no room for at once is done in smaller lots, wherever a model is run on windows."""

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from unicuco_plugin.errors import EvaluationError
from unicuco_plugin.evaluation.comparison import compare_models
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.parts.channels import measure_channels
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.modifiers.toolkit.failure import explain_failure
from unicuco_plugin.objectives.interaction import InteractionMeter
from unicuco_plugin.peers.peer import PeerRequest, ask_peer
from unicuco_plugin.plugins.manager import make_peer
from unicuco_plugin.scores.activations import block_scores
from unicuco_plugin.texts.selfcalibration import generate_windows

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture
def decoder():
    return find_decoder(tiny_model("llama", blocks=3))


@pytest.fixture
def windows():
    return torch.randint(4, 128, (4, 8), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def room_for(monkeypatch):
    """Let a block run no more than so many windows; 0 for none."""

    def limit(most):
        run = BlockRunner.run

        def narrow(self, index, states):
            if len(states) > most:
                raise FULL
            return run(self, index, states)

        monkeypatch.setattr(BlockRunner, "run", narrow)

    return limit


def channels(decoder, windows, _):
    return {name: known.mean for name, known in measure_channels(decoder, windows, batch_windows=4).items()}


def scored(decoder, windows, _):
    return dict(enumerate(block_scores(decoder, windows, batch_windows=4)))


def built(decoder, windows, folder):
    settings = LevelSettings(sparsities=(0.5,), batch_windows=4)
    levels = build_levels(decoder, windows, folder / "levels", name="tiny", settings=settings)
    # Of two weights that are as good, rounding decides which one goes.
    return {name: levels.linear(name).decode(1).float().norm() for name in levels.sizes}


def ranked(decoder, windows, _):
    found = ask_peer(make_peer("shortgpt"), PeerRequest(decoder, windows, 0.4, batch_windows=4))
    return {"influence": torch.tensor(found.details["influence"])}


MEASURES = [channels, scored, built, ranked]


@pytest.mark.parametrize("measure", MEASURES)
def test_fewer_windows_at_a_time_give_the_same_but_for_rounding(measure, decoder, windows, tmp_path, room_for):
    for name in ("whole", "narrow"):
        (tmp_path / name).mkdir()
    whole = measure(decoder, windows, tmp_path / "whole")
    room_for(1)
    narrow = measure(decoder, windows, tmp_path / "narrow")
    assert whole.keys() == narrow.keys()
    for name, values in whole.items():
        torch.testing.assert_close(narrow[name], values, rtol=1e-4, atol=1e-6)


def test_what_did_not_fit_once_is_not_tried_again_and_is_said(decoder, windows, room_for, caplog):
    room_for(1)
    channels(decoder, windows, None)
    halved = "out of memory: windows are run {} at a time from here on, not {}"
    assert caplog.messages == [halved.format(2, 4), halved.format(1, 2)]
    said = []
    ask_peer(make_peer("shortgpt"), PeerRequest(decoder, windows, 0.4, batch_windows=4, progress=said.append))
    assert [event.message for event in said if event.message] == caplog.messages


@pytest.mark.parametrize("measure", MEASURES)
def test_where_one_window_does_not_fit_it_is_said_what_to_lower(measure, decoder, windows, tmp_path, room_for):
    room_for(0)
    with pytest.raises(EvaluationError, match=r"^one window alone does not fit .*GiB\): lower .*seq_length"):
        measure(decoder, windows, tmp_path)


def test_interactions_take_fewer_modules_at_a_time(decoder, windows, monkeypatch, caplog):
    names = [f"{block}.{half}" for block in decoder.block_names for half in ("self_attn", "mlp")]
    found = []
    for most in (7, 2):
        meter = InteractionMeter(decoder, windows)
        finals = meter._walk.prefixes.finals

        def narrow(candidates, most=most, finals=finals):
            if len(candidates) > most:
                raise FULL
            return finals(candidates)

        monkeypatch.setattr(meter._walk.prefixes, "finals", narrow)
        found.append(meter.measure(KeptParts({}, {}), names).tolist())
        assert meter.tokens == 7 * windows.numel()
    assert found[0] == found[1]
    assert caplog.messages == [
        "out of memory: strategies are measured 3 at a time from here on, not 7",
        "out of memory: strategies are measured 1 at a time from here on, not 3",
    ]


def test_a_comparison_and_a_model_that_writes_say_what_to_lower(decoder, windows, monkeypatch, tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)

    def full(*_, **__):
        raise FULL

    monkeypatch.setattr(type(decoder.model), "forward", full)
    with pytest.raises(EvaluationError, match=r"^one window alone does not fit .*: lower the tokens of a window"):
        compare_models(decoder.model, None, windows)
    with pytest.raises(EvaluationError, match=r"^one batch of 16 windows alone does not fit .* or give calibration"):
        generate_windows(decoder.model, tokenizer, count=1, length=4, seed=0, cache_dir=tmp_path)


def test_a_level_build_says_so_of_a_linear(decoder, windows, tmp_path, monkeypatch):
    def full(*_, **__):
        raise FULL

    monkeypatch.setattr("unicuco_plugin.levels.solver.factor_hessian", full)
    with pytest.raises(EvaluationError, match=r"^one linear alone does not fit .*: lower the number of levels, or"):
        built(decoder, windows, tmp_path)


def test_the_toolkits_own_pass_says_what_to_lower():
    assert "lower the calibration windows (--samples)" in str(explain_failure(FULL))


def test_what_is_no_lack_of_memory_is_raised_as_it_is():
    wrong, tried = RuntimeError("shapes"), []

    def call(size):
        tried.append(size)
        raise wrong

    with pytest.raises(RuntimeError) as caught:
        Fitting(8)(call)
    assert (caught.value, tried) == (wrong, [8])
