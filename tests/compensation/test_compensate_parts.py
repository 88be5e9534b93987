"""Corrections of modules that lose parts, against regressions on what the masked model's projections are given."""

from copy import copy
from dataclasses import replace

import pytest
import torch
from structured_parts import KEPT_BEFORE_CUTS as KEPT
from structured_parts import A, M, draw, masked, masked_logits, mixed_parts
from tiny import tiny_model

from unicuco_plugin.compensation import corrections as corrections_module
from unicuco_plugin.compensation.corrections import Corrections
from unicuco_plugin.compensation.cut import Correction
from unicuco_plugin.compensation.dense_states import DenseStates
from unicuco_plugin.compensation.methods import METHODS, Compensation
from unicuco_plugin.compensation.moments import relatively
from unicuco_plugin.compensation.narrowed import Narrowed
from unicuco_plugin.compensation.parts import compensate_parts
from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.halves import HalfRunner
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts, spread
from unicuco_plugin.objectives.head import DivergenceHead

WINDOWS = torch.randint(4, 128, (16, 32), generator=torch.Generator().manual_seed(0))
TOUCHED = (2, 3, 6, 11)


def states_of(model):
    runner = HalfRunner(find_decoder(model), WINDOWS.shape[1])
    return DenseStates(runner, WINDOWS), DivergenceHead(runner).divergences


def some_biases():
    return {name: draw(32, seed) for seed, name in enumerate((A.format(1), M.format(5)))}


@torch.no_grad()
def corrected_logits(model, parts, done, ids=WINDOWS):
    """What the dense model gives once corrections are folded into it and its parts are masked."""
    decoder = find_decoder(model)
    restore = done.fold(decoder, ())
    logits = masked_logits(decoder, replace(parts, biases={**parts.biases, **done.biases}), ids)
    restore()
    return logits


def divergence(p, q):
    p, q = p.log_softmax(-1).double(), q.log_softmax(-1).double()
    return float((p.exp() * (p - q)).sum(-1).mean())


@torch.no_grad()
def regression(model, parts, name, following, ridge):
    """What a projection's kept columns and bias become, from rows of the dense model, in float64."""
    decoder, seen = find_decoder(model), {}
    part = find_parts(decoder)[name]
    runner = HalfRunner(decoder, WINDOWS.shape[1])
    place, output = runner.halves.index(name), model.get_submodule(part.output)
    fit = WINDOWS[torch.arange(len(WINDOWS)) % 4 != 0]
    states = runner.embed(fit)
    for index in range(place):
        states = runner.run(index, states)
    hook = output.register_forward_pre_hook(lambda _, args: seen.update(u=args[0]))
    with masked(decoder, KeptParts({name: parts.kept.get(name, tuple(range(part.count)))}, parts.biases)):
        left = runner.run(place, states)
    hook.remove()
    target = states
    for index in range(place, following):
        target = runner.run(index, target)
    columns = spread(parts.kept.get(name, range(part.count)), part.width)
    whole = seen["u"].reshape(*fit.shape, -1).double()
    if name in parts.biases:
        whole = torch.cat([whole, torch.ones_like(whole[..., :1])], -1)
    behind = runner.run(place, states) if name in parts.kept else target
    w = relatively(behind).double().flatten()[:, None]
    size = (w * whole.flatten(0, 1) ** 2).sum(0).mean()  # the mean of the diagonal of all inputs' moments
    kept = torch.cat([columns, torch.arange(part.count * part.width, whole.shape[-1])])
    u, r = whole[..., kept].flatten(0, 1), (target - left).double().flatten(0, 1)
    gram = u.T @ (w * u)
    change = torch.linalg.solve(gram + ridge * size * torch.eye(len(gram)), u.T @ (w * r)).T
    whole = torch.cat([output.weight[:, columns].double(), torch.zeros(32, int(name in parts.biases))], 1) + change
    return columns, whole


@pytest.mark.parametrize("biases", [{}, some_biases()], ids=["plain", "with biases"])
def test_what_is_left_of_a_projection_is_the_regression_on_the_dense_models_rows(biases, monkeypatch):
    monkeypatch.setattr("unicuco_plugin.compensation.penalised._RIDGES", (0.05,))
    model, parts = tiny_model("llama"), KeptParts(KEPT, biases)
    dense, _ = states_of(model)
    done = compensate_parts(dense, parts, METHODS["ridge"])
    assert done.corrected == list(TOUCHED)
    found = find_parts(find_decoder(model))
    for place, following in zip(TOUCHED, (3, 5, 10, 12), strict=True):
        name = dense.runner.halves[place]
        columns, expected = regression(model, parts, name, following, 0.05)
        weight = done.changes[found[name].output]["weight"]
        torch.testing.assert_close(weight[:, columns].double(), expected[:, : len(columns)], rtol=1e-3, atol=1e-3)
        if name in biases:
            torch.testing.assert_close(
                done.biases[name].double(), expected[:, -1] + biases[name].double(), rtol=1e-3, atol=1e-3
            )
    assert done.biases.keys() == biases.keys()


@pytest.mark.parametrize("family", ["llama", "qwen2", "granite", "smollm3"])
@pytest.mark.parametrize("method", ["ridge", "linear", "bias"])
def test_what_is_said_of_held_out_windows_is_what_the_folded_model_gives(family, method):
    model, parts = tiny_model(family), KeptParts(KEPT, some_biases())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dense, divergences = states_of(model)
    done = compensate_parts(dense, parts, METHODS[method], divergences)
    held = WINDOWS[::4]
    with torch.no_grad():
        p = model(held, use_cache=False).logits
        plain = masked_logits(find_decoder(model), parts, held)
    assert done.before == pytest.approx(divergence(p, plain), rel=1e-4)
    assert done.after == pytest.approx(divergence(p, corrected_logits(model, parts, done, held)), rel=1e-4)
    assert done.after < done.before
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("format", ["compact", "stock"])
@torch.no_grad()
def test_a_checkpoint_in_any_form_is_the_corrected_model(format):
    model, parts = tiny_model("llama"), KeptParts(KEPT, some_biases() if format == "compact" else {})
    dense, _ = states_of(model)
    done = compensate_parts(dense, parts, METHODS["ridge"])
    expected = corrected_logits(model, parts, done)
    done.fold(find_decoder(model), ())
    apply_parts(model, replace(parts, biases={**parts.biases, **done.biases}), format=format)
    torch.testing.assert_close(model(WINDOWS, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_module_of_which_only_a_bias_stays_is_run_with_it_and_not_corrected():
    model, parts = tiny_model("llama"), mixed_parts(biases=True)
    dense, divergences = states_of(model)
    done = compensate_parts(dense, parts, METHODS["ridge"], divergences)
    held = WINDOWS[::4]
    with torch.no_grad():
        p, plain = model(held, use_cache=False).logits, masked_logits(find_decoder(model), parts, held)
    assert done.before == pytest.approx(divergence(p, plain), rel=1e-4)
    assert done.after == pytest.approx(divergence(p, corrected_logits(model, parts, done, held)), rel=1e-4)
    assert done.after < done.before and not done.biases.keys() & set(parts.removed)


def test_the_bias_alone_is_what_the_removed_parts_gave_on_average():
    model = tiny_model("llama")
    kept = {M.format(2): tuple(range(0, 48, 3))}
    dense, _ = states_of(model)
    done = compensate_parts(dense, KeptParts(kept, {M.format(2): torch.zeros(32)}), METHODS["bias"])
    seen, module = [], model.model.layers[2].mlp.down_proj
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(WINDOWS[torch.arange(16) % 4 != 0], use_cache=False)
    hook.remove()
    gone = [index for index in range(48) if index % 3]
    expected = seen[0].flatten(0, 1)[:, gone].mean(0) @ module.weight[:, gone].T
    torch.testing.assert_close(done.biases[M.format(2)], expected, rtol=1e-3, atol=1e-5)


def test_where_no_module_has_room_for_a_bias_there_is_nothing_to_change():
    dense, _ = states_of(tiny_model("llama"))
    with pytest.raises(UnsupportedModelError, match=r"^compensation bias changes biases, and model\.layers"):
        compensate_parts(dense, KeptParts(KEPT), METHODS["bias"])


def test_a_factor_of_states_is_not_for_modules():
    dense, _ = states_of(tiny_model("llama"))
    with pytest.raises(UnsupportedModelError, match="scale multiplies the states behind blocks"):
        compensate_parts(dense, KeptParts(KEPT), METHODS["scale"])


def worse_at(*places):
    """A method that is right but for some of its corrections, which do harm."""
    calls = []

    def solve(cut):
        calls.append(cut)
        change = METHODS["ridge"].solve(cut).change
        return Correction(-40.0 * change if len(calls) - 1 in places else change)

    return replace(METHODS["ridge"], solve=solve, widths=None)


@pytest.mark.parametrize("bad", [(0,), (3,), (1, 2)])
def test_corrections_that_do_harm_are_found_and_left_out(bad):
    dense, divergences = states_of(tiny_model("llama"))
    done = compensate_parts(dense, KeptParts(KEPT), worse_at(*bad), divergences)
    assert set(done.left_out) == {TOUCHED[place] for place in bad}
    assert set(done.corrected) == set(TOUCHED) - set(done.left_out)
    assert all(reason.endswith("nats per token with it") for reason in done.left_out.values())
    assert done.after < done.before and len(done.changes) == len(done.corrected)


def test_nothing_is_changed_where_every_correction_does_harm_or_is_not_finite():
    for value in (9.0, float("inf")):
        dense, divergences = states_of(tiny_model("llama"))
        harm = Compensation(lambda cut, value=value: Correction(torch.full_like(cut.weight, value)))
        done = compensate_parts(dense, KeptParts(KEPT), harm, divergences)
        assert not done.changes and done.after == done.before and set(done.left_out) == set(TOUCHED)


def test_what_goes_before_the_first_module_that_stays_has_nothing_to_fold_into():
    dense, divergences = states_of(tiny_model("llama"))
    done = compensate_parts(dense, KeptParts({A.format(0): (), **KEPT}), METHODS["ridge"], divergences)
    assert done.left_out[-1] == "no module comes before it" and done.corrected


@pytest.mark.parametrize("method", ["ridge", "linear", "bias"])
@torch.no_grad()
def test_a_search_gathers_moments_of_inputs_once_and_solves_to_the_bits_of_an_export(method, monkeypatch):
    gathered = []
    observe = corrections_module.observe_cut
    monkeypatch.setattr(
        corrections_module, "observe_cut", lambda *args, **named: gathered.append(args[1]) or observe(*args, **named)
    )
    runner = HalfRunner(find_decoder(tiny_model("llama")), WINDOWS.shape[1])
    part = find_parts(runner.decoder)[M.format(1)]
    dense = DenseStates(runner, WINDOWS, keep=True)
    dense.at(12)
    once = copy(dense)
    once.keep = False
    search = Corrections(dense, method, METHODS[method])
    for kept, following in (((1, 2, 40), 6), ((1, 2, 40), 4), ((3, 5), 6)):
        left = Narrowed(part, kept, draw(32, 0))
        found = search.at(3, following, left)
        assert len(gathered) == 1
        export = Corrections(once, method, METHODS[method]).at(3, following, left)
        gathered.pop()
        assert found.values.keys() == export.values.keys() == {"weight", "bias"}
        assert all(torch.equal(value, export.values[name]) for name, value in found.values.items())
