"""Perplexity and divergence of two models against a second route: whole-window formulas, written out."""

import math
from collections import Counter

import pytest
import torch
from compressed_tensors.offload.cache import DiskCache
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.errors import CalibrationError, EvaluationError
from unicuco_plugin.evaluation.comparison import Estimate, compare_models
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.surgery import dropped
from unicuco_plugin.models.loading import load_model

WINDOWS = torch.randint(4, VOCABULARY, (5, 37), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def dense():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def pruned():
    model = tiny_model("llama")
    with dropped(model, [1, 4]):
        yield model


@torch.no_grad()
def plain_route(dense, pruned, windows):
    """The project's reference evaluator (evaluate_blocks.py): mean KL, mean NLL of the pruned model."""
    kl = nll = 0.0
    for row in windows:
        a = torch.log_softmax(dense(row[None]).logits[0].float(), -1)
        b = torch.log_softmax(pruned(row[None]).logits[0].float(), -1)
        kl += (a.exp() * (a - b)).sum(-1).mean().item()
        nll -= b[:-1].gather(1, row[1:, None]).mean().item()
    return kl / len(windows), nll / len(windows)


@pytest.mark.parametrize("positions", [1, 8, 36, 37, 128])
def test_it_agrees_with_the_reference_evaluator(dense, pruned, positions):
    kl, nll = plain_route(dense, pruned, WINDOWS)
    found = compare_models(dense, pruned, WINDOWS, positions=positions)
    assert found.divergence.mean == pytest.approx(kl, rel=1e-5)
    assert found.pruned.mean == pytest.approx(nll, rel=1e-6)
    assert found.dense.mean == pytest.approx(plain_route(dense, dense, WINDOWS)[1], rel=1e-6)
    assert found.tokens == WINDOWS.numel()


def test_bfloat16_logits_are_compared_in_float32(dense, pruned):
    halves = [tiny_model("llama").bfloat16() for _ in range(2)]
    with dropped(halves[1], [1, 4]):
        kl, nll = plain_route(*halves, WINDOWS)
        found = compare_models(*halves, WINDOWS)
    assert found.divergence.mean == pytest.approx(kl, rel=1e-5)
    assert found.pruned.mean == pytest.approx(nll, rel=1e-6)


def test_models_in_their_files_compare_the_same_and_each_block_is_read_once(dense, pruned, tmp_path, monkeypatch):
    streamed = []
    for name, model in (("dense", dense), ("pruned", pruned)):
        model.save_pretrained(tmp_path / name)
        streamed.append(load_model(tmp_path / name, offload="disk"))
    reads, onload = Counter(), DiskCache.onload
    monkeypatch.setattr(DiskCache, "onload", lambda cache, kept: reads.update([id(kept)]) or onload(cache, kept))
    assert compare_models(*streamed, WINDOWS) == compare_models(dense, pruned, WINDOWS)
    # Once for the windows, and twice when a model is looked at.
    assert len(reads) == sum(1 for model in streamed for _ in find_decoder(model).blocks.parameters())
    assert max(reads.values()) <= 3 < len(WINDOWS)


def test_a_model_does_not_diverge_from_itself(dense):
    assert compare_models(dense, dense, WINDOWS).divergence == Estimate(0.0, 0.0)


def test_the_standard_error_is_that_of_the_windows(dense, pruned):
    single = [compare_models(dense, pruned, window[None]).divergence.mean for window in WINDOWS]
    values = torch.tensor(single, dtype=torch.float64)
    found = compare_models(dense, pruned, WINDOWS).divergence
    assert found.mean == pytest.approx(values.mean().item())
    assert found.standard_error == pytest.approx((values.std() / math.sqrt(len(values))).item())


def test_one_window_has_no_standard_error(dense):
    found = compare_models(dense, None, WINDOWS[:1])
    assert math.isnan(found.dense.standard_error)
    assert (found.pruned, found.divergence) == (None, None)


def test_the_error_of_an_exponential_is_first_order():
    assert Estimate(2.0, 0.1).exp() == Estimate(math.exp(2.0), pytest.approx(0.1 * math.exp(2.0)))


def test_an_exponential_beyond_floats_is_infinite():
    assert Estimate(710.0, 0.1).exp() == Estimate(math.inf, math.inf)


@pytest.mark.parametrize("place", ["dense", "pruned"])
def test_a_model_that_gives_nothing_finite_is_refused_with_the_window(dense, place):
    broken = tiny_model("llama").to(torch.bfloat16)
    broken.model.norm.weight.data[3] = torch.nan
    models = {"dense": dense, "pruned": dense, place: broken}
    message = f"^negative log-likelihood of the {place} model on window 0 must be finite, got nan in bfloat16; take"
    with pytest.raises(EvaluationError, match=message):
        compare_models(models["dense"], models["pruned"], WINDOWS)


@pytest.mark.parametrize("shape", [(0, 5), (3, 1), (4,)])
def test_windows_that_hold_nothing_to_predict_are_refused(dense, shape):
    with pytest.raises(CalibrationError, match="windows must be m x L with m at least 1 and L at least 2, got"):
        compare_models(dense, None, torch.zeros(shape, dtype=torch.long))
