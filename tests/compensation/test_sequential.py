"""Corrections that are solved on what the model makes of the text once it is corrected so far."""

from dataclasses import replace

import pytest
import torch
from structured_parts import KEPT_BEFORE_CUTS as KEPT
from structured_parts import A, M, draw, masked, masked_logits
from tiny import tiny_model

from unicuco_plugin.compensation.compensate import compensate
from unicuco_plugin.compensation.cut import Correction
from unicuco_plugin.compensation.dense_states import DenseStates
from unicuco_plugin.compensation.methods import METHODS
from unicuco_plugin.compensation.moments import relatively
from unicuco_plugin.compensation.parts import compensate_parts
from unicuco_plugin.models.blocks.bypass import bypassed
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.halves import HalfRunner, step_names
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts, spread
from unicuco_plugin.objectives.head import DivergenceHead

SEQUENTIAL = METHODS["sequential"]
PENALTY = 0.05
WINDOWS = torch.randint(4, 128, (16, 32), generator=torch.Generator().manual_seed(0))
FIT, HELD = WINDOWS[torch.arange(16) % 4 != 0], WINDOWS[::4]
BIASES = {name: draw(32, seed) for seed, name in enumerate((A.format(1), M.format(5)))}
# Places of modules that are corrected, and of the next ones that stay.
FOLLOWING = {2: 3, 3: 5, 6: 10, 11: 12}


def states_of(model, runner_of=HalfRunner):
    runner = runner_of(find_decoder(model), WINDOWS.shape[1])
    return DenseStates(runner, WINDOWS), DivergenceHead(runner).divergences


def regression(u, W, b, *, h, y):
    """``[W, b]`` once it explains what is missing, in float64; ``h`` is what leaves the block with ``W`` and ``b``."""
    w = relatively(y).double().flatten()[:, None]
    u, r = u.double().flatten(0, 1), (y - h).double().flatten(0, 1)
    if b is not None:
        u, W = torch.cat([u, torch.ones_like(u[:, :1])], 1), torch.cat([W, b[:, None]], 1)
    gram = u.T @ (w * u)
    eye = gram.diagonal().mean() * torch.eye(len(gram))
    return W.double() + torch.linalg.solve(gram + PENALTY * eye, u.T @ (w * r)).T


@pytest.mark.parametrize("biases", [{}, BIASES], ids=["plain", "with biases"])
@torch.no_grad()
def test_every_module_is_the_regression_on_what_the_corrected_model_makes_of_the_text(biases, monkeypatch):
    monkeypatch.setattr("unicuco_plugin.compensation.penalised._RIDGES", (PENALTY,))
    model, parts = tiny_model("llama"), KeptParts(KEPT, biases)
    dense, _ = states_of(model)
    done = compensate_parts(dense, parts, SEQUENTIAL)
    assert done.corrected == list(FOLLOWING) and not done.left_out
    decoder, runner = find_decoder(model), dense.runner
    targets, names = [runner.embed(FIT)], step_names(runner)
    for place in range(12):
        targets.append(runner.run(place, targets[-1]))
    found = find_parts(decoder)
    outputs = {place: model.get_submodule(found[names[place]].output) for place in FOLLOWING}
    dense_weights = {place: output.weight.clone() for place, output in outputs.items()}
    given, hooks = {}, []
    done.fold(decoder, ())
    with masked(decoder, replace(parts, biases={**biases, **done.biases})):
        for place, output in outputs.items():  # behind the masks, so that what went is zero
            hooks.append(output.register_forward_pre_hook(lambda _, args, place=place: given.update({place: args[0]})))
        states = runner.embed(FIT)
        for place, name in enumerate(names):
            entered = states
            states = runner.run(place, states)
            if place not in FOLLOWING:
                continue
            part, y, own = found[name], targets[FOLLOWING[place]], biases.get(name)
            columns = spread(KEPT.get(name, range(part.count)), part.width)
            u, W = given[place].reshape(*FIT.shape, -1)[..., columns], dense_weights[place][:, columns]
            h = entered + u @ W.T + (0.0 if own is None else own)
            expected = regression(u, W, own, h=h, y=y)
            weight = done.changes[part.output]["weight"][:, columns].double()
            torch.testing.assert_close(weight, expected[:, : len(columns)], rtol=1e-3, atol=1e-3)
            if own is not None:
                torch.testing.assert_close(done.biases[name].double(), expected[:, -1], rtol=1e-3, atol=1e-3)
    assert len(given) == len(FOLLOWING)


GONE = (1, 3, 4)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "starcoder2"])
@torch.no_grad()
def test_every_cut_is_the_regression_on_what_the_corrected_model_makes_of_the_text(family, monkeypatch):
    monkeypatch.setattr("unicuco_plugin.compensation.penalised._RIDGES", (PENALTY,))
    model = tiny_model(family)
    dense, _ = states_of(model, BlockRunner)
    runner, decoder = dense.runner, dense.runner.decoder
    done = compensate(dense, GONE, SEQUENTIAL)
    assert done.corrected == [0, 2]
    plain = compensate(DenseStates(runner, WINDOWS), GONE, METHODS["ridge"])
    (first, second), given = done.changes, {}
    assert all(torch.equal(done.changes[first][name], value) for name, value in plain.changes[first].items())
    linear = model.get_submodule(second)
    W, b = linear.weight.clone(), None if linear.bias is None else linear.bias.clone()
    hook = linear.register_forward_pre_hook(lambda _, args: given.update(u=args[0]))
    target = runner.embed(FIT)
    for index in range(5):
        target = runner.run(index, target)
    restore = done.fold(decoder, GONE)
    states = runner.run(0, runner.embed(FIT))
    restore()
    h = runner.run(2, states)
    hook.remove()
    expected = regression(given["u"].reshape(*FIT.shape, -1), W, b, h=h, y=target)
    torch.testing.assert_close(done.changes[second]["weight"].double(), expected[:, : W.shape[1]], rtol=1e-3, atol=1e-3)


def divergence(p, q):
    p, q = p.log_softmax(-1).double(), q.log_softmax(-1).double()
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("family", ["llama", "qwen2", "granite", "smollm3"])
@torch.no_grad()
def test_what_is_said_of_held_out_windows_is_what_the_folded_model_gives(family):
    model = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    p = model(HELD, use_cache=False).logits
    parts, decoder = KeptParts(KEPT, BIASES), find_decoder(model)
    done = compensate_parts(states_of(model)[0], parts, SEQUENTIAL, states_of(model)[1])
    restore = done.fold(decoder, ())
    q = masked_logits(decoder, replace(parts, biases={**BIASES, **done.biases}), HELD)
    restore()
    assert done.after == pytest.approx(divergence(p, q), rel=1e-4)
    assert done.before == pytest.approx(divergence(p, masked_logits(decoder, parts, HELD)), rel=1e-4)
    assert done.after < done.before
    for runner_of, gone in ((BlockRunner, GONE), (HalfRunner, (3, 6, 7, 11))):
        dense, divergences = states_of(model, runner_of)
        names = [step_names(dense.runner)[place] for place in gone]
        done = compensate(dense, gone, SEQUENTIAL, divergences)
        restore = done.fold(decoder, gone)
        if runner_of is BlockRunner:
            with bypassed(decoder, gone):
                q = model(HELD, use_cache=False).logits
        else:
            q = masked_logits(decoder, KeptParts(dict.fromkeys(names, ()), {}), HELD)
        restore()
        assert done.after == pytest.approx(divergence(p, q), rel=1e-4) and done.after < done.before
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def harmful(*widths, value=-40.0):
    """The method, where corrections of projections with so many inputs do harm; and how often each was solved."""
    solved = []

    def solve(cut):
        solved.append(cut.weight.shape[1])
        change = METHODS["ridge"].solve(cut).change
        return Correction(value * change if solved[-1] in widths else change)

    return replace(SEQUENTIAL, solve=solve), solved


# Inputs of the four projections.
WIDTHS = {2: 16, 3: 24, 6: 32, 11: 20}


@pytest.mark.parametrize("bad", [(2,), (11,), (3, 6)])
@pytest.mark.parametrize("value", [-40.0, float("nan")])
def test_corrections_that_do_harm_are_left_out_and_others_solved_without_them(bad, value, monkeypatch):
    monkeypatch.setattr("unicuco_plugin.compensation.parts._GROUPS", 1)
    model, parts = tiny_model("llama"), KeptParts(KEPT)
    method, solved = harmful(*(WIDTHS[place] for place in bad), value=value)
    dense, divergences = states_of(model)
    done = compensate_parts(dense, parts, method, divergences)
    assert set(done.left_out) == set(bad) and set(done.corrected) == set(FOLLOWING) - set(bad)
    assert done.after < done.before and len(done.changes) == len(done.corrected)
    # Solved again is what stands behind one that was found to do harm, and nothing else.
    assert {*solved} == {*WIDTHS.values()}
    behind = {width for place, width in WIDTHS.items() if value == -40.0 and place > bad[0]}
    assert {width for width in WIDTHS.values() if solved.count(width) > 1} == behind
    # The others are those of a model in which the bad ones were never tried.
    none, _ = harmful(*(WIDTHS[place] for place in bad), value=0.0)
    monkeypatch.setattr("unicuco_plugin.compensation.parts._GROUPS", 4)
    alone = compensate_parts(states_of(model)[0], parts, none, None)
    found = find_parts(find_decoder(model))
    for place in done.corrected:
        output = found[step_names(dense.runner)[place]].output
        torch.testing.assert_close(done.changes[output], alone.changes[output], rtol=1e-4, atol=1e-5)


def test_a_cut_that_does_harm_is_left_out_and_the_next_is_solved_without_it():
    model = tiny_model("llama")
    dense, divergences = states_of(model, BlockRunner)
    calls = []

    def solve(cut):
        calls.append(cut)
        change = METHODS["ridge"].solve(cut).change
        return Correction(-30.0 * change if len(calls) == 1 else change)

    done = compensate(dense, GONE, replace(SEQUENTIAL, solve=solve), divergences)
    assert list(done.left_out) == [0] and done.corrected == [2]
    # Nothing was corrected before the second cut, but block 1 is gone.
    plain = compensate(states_of(model, BlockRunner)[0], GONE, METHODS["ridge"])
    assert done.after < done.before
    assert not torch.equal(*(one.changes["model.layers.2.mlp.down_proj"]["weight"] for one in (done, plain)))
