"""AutoRound's own scores on our windows: what they are, and what they leave behind."""

import pytest
import torch
from auto_round.auto_scheme import delta_loss
from auto_round.data_type.int import quant_tensor_sym
from scheme_databases import WIDTHS, build_schemes
from torch.nn.functional import cross_entropy

from unicuco_plugin.errors import RequestError
from unicuco_plugin.peers.auto_scheme import AutoScheme
from unicuco_plugin.peers.bits import bits_problem
from unicuco_plugin.peers.peer import PeerRequest
from unicuco_plugin.schemes import parse_scheme


@pytest.mark.slow
def test_scores_are_gradients_times_changes_on_the_model_rounded_in_that_scheme(ask_bits, small, windows):
    scores = AutoScheme()(ask_bits(5.0, windows=windows)).details["scores"]
    for scheme in WIDTHS:
        linears = {name: small.all_linears()[name] for name in scores}
        own = {name: linear.weight.detach().clone() for name, linear in linears.items()}
        try:
            for name, linear in linears.items():
                rounded, *_ = quant_tensor_sym(own[name], bits=parse_scheme(scheme).bits, group_size=-1)
                linear.weight.data = rounded
                linear.weight.requires_grad_(True)
            logits = small.model(input_ids=windows, use_cache=False).logits[:, :-1]
            loss = cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
            names = list(linears)
            gradients = torch.autograd.grad(loss, [linears[name].weight for name in names])
            for name, gradient in zip(names, gradients, strict=True):
                expected = (gradient * (own[name] - linears[name].weight)).abs().sum().item()
                assert scores[name][scheme] == pytest.approx(expected, rel=0.02)
        finally:
            for name, linear in linears.items():
                linear.weight.data = own[name]


@pytest.mark.slow
def test_the_knapsack_is_as_good_as_its_own(ask_bits, windows, tmp_path):
    for bits in (3.6, 5.0, 8.0):
        request = ask_bits(bits, windows=windows, journal=tmp_path / "scores")
        found, problem = AutoScheme()(request), bits_problem(request)
        table = problem.table(found.details["scores"])
        space = problem.space
        layers = {
            unit: [(k, round(n * choice[1]), row[k].item(), [unit]) for k, choice in enumerate(choices)]
            for unit, n, choices, row in zip(space.units, space.unit_params, space.choices, table, strict=True)
        }
        loss, _ = delta_loss.choose_bits_per_layer_with_path(layers, int(bits * sum(space.unit_params) + 1e-6))
        places = space.places(space.from_units(found.units))
        assert table.gather(1, places[:, None]).sum().item() == pytest.approx(loss, rel=1e-9)


@pytest.mark.slow
def test_model_and_package_are_left_as_they_were(ask_bits, small, windows):
    loader = delta_loss.get_dataloader
    state = {name: tensor.clone() for name, tensor in small.model.state_dict().items()}
    kept = {name: (type(module), set(vars(module))) for name, module in small.model.named_modules()}
    asked = {name: parameter.requires_grad for name, parameter in small.model.named_parameters()}
    AutoScheme()(ask_bits(5.0, windows=windows))
    assert delta_loss.get_dataloader is loader
    assert all(torch.equal(state[name], tensor) for name, tensor in small.model.state_dict().items())
    assert {name: (type(module), set(vars(module))) for name, module in small.model.named_modules()} == kept
    assert {name: parameter.requires_grad for name, parameter in small.model.named_parameters()} == asked
    assert all(parameter.grad is None for parameter in small.model.parameters())


def test_schemes_that_it_does_not_know_by_our_names_are_refused(small, windows, tmp_path):
    levels = build_schemes(small.model, tmp_path / "levels", ("W8A8", "W4A16:channel"))
    with pytest.raises(RequestError, match=r"W2A16 to W8A16, got W8A8$"):
        AutoScheme()(PeerRequest(small, windows, 0.6, levels=levels))


@pytest.mark.slow
def test_a_pass_that_is_broken_off_leaves_no_wrapper(ask_bits, small, windows, monkeypatch):
    failing = [True]
    backward = torch.Tensor.backward

    def full(tensor, *values, **options):
        if failing:
            failing.clear()
            raise torch.OutOfMemoryError("out of memory")
        return backward(tensor, *values, **options)

    before = dict(small.all_linears())
    monkeypatch.setattr(torch.Tensor, "backward", full)
    AutoScheme()(ask_bits(5.0, windows=windows))
    assert not failing
    assert {name: id(linear) for name, linear in small.all_linears().items()} == {
        name: id(linear) for name, linear in before.items()
    }
