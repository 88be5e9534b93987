"""Each closed form against the least-squares problem that it solves, put to another solver."""

import pytest
import torch

from unicuco_plugin.compensation.cut import Cut
from unicuco_plugin.compensation.methods import METHODS, linear, ridge, scale
from unicuco_plugin.compensation.moments import Moments, equally, relatively


def rows(seed, noise=0.0, count=60):
    generator = torch.Generator().manual_seed(seed)
    u, h = (torch.randn(count, 5, width, generator=generator, dtype=torch.float64) for width in (6, 4))
    true = torch.randn(4, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    y = h + u @ true.T + noise * torch.randn(count, 5, 4, generator=generator, dtype=torch.float64)
    return u, h, y, true


def cut_of(weight, s, noise=0.0, weigh=equally, count=60):
    moments = []
    for seed in (0, 1):
        u, h, y, _ = rows(seed, noise, count)
        moments.append(Moments.zeros(6, 4, torch.device("cpu")))
        moments[-1].add(u, h, y, weigh(y))
    return Cut(weight, s, *moments)


WEIGHT = torch.randn(4, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("s", [1.0, 0.25])
def test_ridge_finds_a_change_that_explains_everything(s):
    correction = ridge(cut_of(WEIGHT, s, weigh=relatively))
    torch.testing.assert_close(s * correction.change, rows(0)[3], atol=2e-3, rtol=2e-3)


def test_ridge_is_drawn_towards_no_change_where_there_is_nothing_to_learn():
    few = ridge(cut_of(WEIGHT, 1.0, noise=30.0, count=2)).change
    u, h, y, _ = rows(0, 30.0, 2)
    plain = torch.linalg.lstsq(u.flatten(0, 1), (y - h).flatten(0, 1)).solution.T
    assert few.norm() < 0.5 * plain.norm()


@pytest.mark.parametrize("s", [1.0, 0.25])
def test_linear_is_the_papers_map_of_what_the_projection_adds(s):
    u, h, y, _ = (part.flatten(0, 1) if part.dim() == 3 else part for part in rows(0, 0.1))
    added = s * u @ WEIGHT.T
    T = torch.linalg.lstsq(added, y - (h - added)).solution
    changed = WEIGHT + linear(cut_of(WEIGHT, s, 0.1)).change
    torch.testing.assert_close(changed, T.T @ WEIGHT, atol=1e-4, rtol=1e-4)


def test_scale_is_the_mean_ratio_of_sizes():
    _, h, y, _ = rows(0)
    expected = (y.abs().sum(-1) / h.abs().sum(-1)).mean()
    assert scale(cut_of(WEIGHT, 1.0)).gain == pytest.approx(float(expected), rel=1e-5)


def test_none_solves_nothing():
    assert METHODS["none"].solve is None
