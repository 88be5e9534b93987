"""Moments against the sums that they are, row by row in float64."""

import pytest
import torch

from unicuco_plugin.compensation.moments import Moments, equally, relatively


@pytest.mark.parametrize("ones", [0, 1], ids=["plain", "with a bias"])
@pytest.mark.parametrize("weigh", [equally, relatively])
def test_moments_are_the_weighted_sums_over_all_batches(weigh, ones):
    generator = torch.Generator().manual_seed(0)
    u, h, y = (torch.randn(4, 5, width, generator=generator) for width in (3, 2, 2))
    moments = Moments.zeros(3 + ones, 2, torch.device("cpu"))
    for batch in (slice(0, 3), slice(3, 4)):
        moments.add(u[batch], h[batch], y[batch], weigh(y[batch]))
    gram, cross, ratio = torch.zeros(3 + ones, 3 + ones), torch.zeros(3 + ones, 2), 0.0
    for window in range(4):
        for place in range(5):
            weight = weigh(y[window : window + 1])[0, place]
            row = torch.cat([u[window, place], torch.ones(ones)])
            gram += weight * torch.outer(row, row)
            cross += weight * torch.outer(row, y[window, place] - h[window, place])
            ratio += float(y[window, place].abs().sum() / h[window, place].abs().sum())
    torch.testing.assert_close(moments.gram.float(), gram)
    torch.testing.assert_close(moments.cross.float(), cross)
    assert float(moments.ratio) == pytest.approx(ratio, rel=1e-5)
    assert moments.tokens == 20


def test_a_state_ten_times_as_large_counts_a_tenth_and_a_first_token_eight_times():
    targets = torch.ones(1, 4, 6)
    targets[0, 2] *= 10.0
    torch.testing.assert_close(relatively(targets), torch.tensor([[8.0, 1.0, 0.1, 1.0]]))
