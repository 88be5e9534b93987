import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.policy.scalarization import Z_STAR, Scaling, pbi, tchebycheff, weighted_sum

IDEAL = torch.full((2,), Z_STAR, dtype=torch.float64)
UNIT = st.floats(-0.5, 2.0)
SHARE = st.floats(0.0, 1.0)


def pair(a, b):
    return torch.tensor([[a, b]], dtype=torch.float64)


@pytest.mark.parametrize("scalarize", [weighted_sum, tchebycheff, pbi])
def test_gradients_match_finite_differences(scalarize):
    generator = torch.Generator().manual_seed(3)
    f = torch.rand(7, 2, dtype=torch.float64, generator=generator).requires_grad_()
    lam = torch.rand(7, 2, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, lam: scalarize(f, lam, IDEAL), (f, lam))


@pytest.mark.parametrize("scalarize", [weighted_sum, tchebycheff, pbi])
def test_a_batch_gives_one_number_a_row(scalarize):
    f, lam = torch.rand(3, 5, 2, dtype=torch.float64), torch.rand(3, 5, 2, dtype=torch.float64)
    rows = torch.stack([scalarize(f[i, j], lam[i, j], IDEAL) for i in range(3) for j in range(5)])
    torch.testing.assert_close(scalarize(f, lam, IDEAL), rows.reshape(3, 5))


@given(a=UNIT, b=UNIT, share=SHARE)
def test_weighted_sum_is_equation_4(a, b, share):
    g = weighted_sum(pair(a, b), pair(share, 1 - share), IDEAL).item()
    assert g == pytest.approx(share * a + (1 - share) * b, abs=1e-12)


@given(a=UNIT, b=UNIT, share=SHARE)
def test_tchebycheff_is_equation_5_with_its_ideal_point(a, b, share):
    g = tchebycheff(pair(a, b), pair(share, 1 - share), IDEAL).item()
    assert g == pytest.approx(max(share * (a + 0.01), (1 - share) * (b + 0.01)), abs=1e-12)


def test_tchebycheff_follows_the_worse_objective_only():
    f = pair(0.2, 0.9).requires_grad_()
    tchebycheff(f, pair(0.5, 0.5), IDEAL).sum().backward()
    assert f.grad.tolist() == [[0.0, 0.5]]


def test_tchebycheff_tells_the_dense_end_point_from_points_it_beats_at_every_preference():
    end, worse = pair(1.0, 0.0), pair(1.0, 0.2)
    assert tchebycheff(end, pair(0.0, 1.0), IDEAL) > 0.0
    assert tchebycheff(end, pair(0.0, 1.0), IDEAL) < tchebycheff(worse, pair(0.0, 1.0), IDEAL)


@given(a=UNIT, b=UNIT, share=SHARE, xi=st.floats(0.01, 10))
def test_pbi_is_the_right_triangle_of_equation_14(a, b, share, xi):
    # A second route: d_1 by the dot product, d_2 by the cross product of f - z* with the unit preference.
    norm = (share**2 + (1 - share) ** 2) ** 0.5
    u, v, x, y = (1 - share) / norm, share / norm, a - Z_STAR, b - Z_STAR
    expected = (x * u + y * v) + xi * abs(x * v - y * u)
    assert pbi(pair(a, b), pair(share, 1 - share), IDEAL, xi).item() == pytest.approx(expected, abs=1e-9)


@given(share=SHARE, distance=st.floats(0.0, 3.0), scale=st.floats(0.1, 10.0))
def test_pbi_on_the_ray_is_the_distance_whatever_the_length_of_the_preference(share, distance, scale):
    lam = pair(share, 1 - share)
    f = IDEAL + distance * lam.flip(-1) / lam.norm()
    assert pbi(f, scale * lam, IDEAL).item() == pytest.approx(distance, abs=1e-9)


@given(share=st.floats(0.05, 0.95), distance=st.floats(0.1, 3.0))
def test_pbi_aims_where_the_terms_of_tchebycheff_are_equal(share, distance):
    f = IDEAL + distance * pair(1 - share, share)
    assert share * (f[0, 0] - Z_STAR).item() == pytest.approx((1 - share) * (f[0, 1] - Z_STAR).item())
    assert pbi(f, pair(share, 1 - share), IDEAL).item() == pytest.approx((f - IDEAL).norm().item(), abs=1e-9)


def test_pbi_has_a_finite_gradient_on_the_ray():
    f = (IDEAL + pair(0.5, 0.5)).requires_grad_()
    pbi(f, pair(0.5, 0.5), IDEAL).sum().backward()
    assert f.grad.isfinite().all()


@pytest.mark.parametrize("xi", [0.0, -1.0, float("nan")])
def test_pbi_refuses_a_penalty_that_is_not_positive(xi):
    with pytest.raises(ValueError, match=r"^xi must be positive, got"):
        pbi(pair(0, 0), pair(0.5, 0.5), IDEAL, xi)


@given(a=UNIT, b=UNIT, share=st.floats(0.05, 0.95), step=st.floats(0.01, 1.0))
def test_tchebycheff_and_weighted_sum_never_prefer_a_point_that_another_beats(a, b, share, step):
    lam, better, worse = pair(share, 1 - share), pair(a, b), pair(a + step, b + step)
    assert weighted_sum(better, lam, IDEAL) < weighted_sum(worse, lam, IDEAL)
    assert tchebycheff(better, lam, IDEAL) < tchebycheff(worse, lam, IDEAL)


@given(ideal=st.tuples(UNIT, UNIT), span=st.tuples(st.floats(0.01, 9), st.floats(0.01, 9)), a=UNIT, b=UNIT)
def test_scaling_takes_the_ideal_to_0_and_the_nadir_to_1_and_back(ideal, span, a, b):
    scaling = Scaling(ideal, (ideal[0] + span[0], ideal[1] + span[1]))
    torch.testing.assert_close(scaling.scale(pair(*scaling.ideal)), pair(0.0, 0.0))
    torch.testing.assert_close(scaling.scale(pair(*scaling.nadir)), pair(1.0, 1.0))
    torch.testing.assert_close(scaling.unscale(scaling.scale(pair(a, b))), pair(a, b))


@pytest.mark.parametrize("nadir", [(1.0, 0.0), (1.0, float("nan")), (1.0, float("inf"))])
def test_a_scaling_without_a_positive_finite_range_is_refused(nadir):
    with pytest.raises(ValueError, match=r"^nadir of quality must be above its ideal and finite, got ideal 0.0, nadir"):
        Scaling((0.0, 0.0), nadir)
