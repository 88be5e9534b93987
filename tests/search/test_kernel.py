"""The kernel whose coordinates share length scales."""

import torch

from unicuco_plugin.policy.posterior import matern52
from unicuco_plugin.search.kernel import make_kernel
from unicuco_plugin.search.surrogate import fit_surrogate


def points(count, d, seed=0):
    return torch.rand(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_tied_coordinates_give_the_closed_form_with_one_length_for_each_group():
    kernel = make_kernel(4, (0, 1, 1, 0), seen=(0, 1, 2, 3)).double()
    kernel.lengthscale = torch.tensor([[0.4, 1.7]], dtype=torch.float64)
    a, b = points(5, 6), points(3, 6, seed=1)
    each = torch.tensor([0.4, 1.7, 1.7, 0.4], dtype=torch.float64)
    expected = matern52(a[:, :4] / each, b[:, :4] / each)
    torch.testing.assert_close(kernel(a, b).to_dense(), expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(kernel(a, a, diag=True), torch.ones(5, dtype=torch.float64))


def test_tied_and_free_kernels_agree_where_lengths_do():
    tied, free = make_kernel(3, (0, 0, 0)).double(), make_kernel(3).double()
    tied.lengthscale, free.lengthscale = 0.6, 0.6
    a = points(6, 3)
    torch.testing.assert_close(tied(a).to_dense(), free(a).to_dense(), rtol=1e-6, atol=1e-8)
    # The prior is that of the number of coordinates, not of lengths.
    assert tied.lengthscale_prior.loc == free.lengthscale_prior.loc


def test_a_surrogate_of_tied_coordinates_predicts_as_its_own_fit_does():
    X = points(30, 5)
    y = (X.sum(1) + 0.2 * (6.0 * X[:, 0]).sin()).exp()
    scales = (0, 1, 1, 1, 1)
    posterior = fit_surrogate(X, y, torch.eye(5, dtype=torch.float64), target="log", scales=scales).posterior
    assert posterior.ell.shape == (5,)
    assert len({round(length, 9) for length in posterior.ell.tolist()}) == 2
    assert (posterior.mean(X) - y.log()).abs().max() < 0.1
