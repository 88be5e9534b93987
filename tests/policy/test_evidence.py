import math
from types import SimpleNamespace

import pytest
import torch
from analytic import SPACE
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.journal.journal import Measurement
from unicuco_plugin.objectives.floor import LEAST
from unicuco_plugin.policy.evidence import Evidence, compare
from unicuco_plugin.policy.posterior import FLOOR, Posterior

VALUE = st.floats(-3, 3)
ROWS = st.lists(st.tuples(VALUE, VALUE), min_size=2, max_size=9)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@given(rows=ROWS)
def test_shift_and_noise_are_mean_and_deviation_of_the_differences(rows):
    mean, again = tensor([a for a, _ in rows]), tensor([b for _, b in rows])
    evidence = Evidence.from_pairs(mean, again)
    differences = [b - a for a, b in rows]
    centre = math.fsum(differences) / len(rows)
    assert evidence.shift == pytest.approx(centre, abs=1e-12)
    spread = math.sqrt(math.fsum((v - centre) ** 2 for v in differences) / (len(rows) - 1))
    assert evidence.noise == pytest.approx(spread, abs=1e-9)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_pairs_say_nothing(count):
    assert Evidence.from_pairs(tensor([0.3] * count), tensor([0.7] * count)) == Evidence(0.0, 0.0)


@given(rows=ROWS)
def test_without_a_second_lot_the_surrogate_stands_but_is_doubted_more(rows):
    mean, std = tensor([a for a, _ in rows]), tensor([abs(b) for _, b in rows])
    combined, doubt = Evidence(0.4, 0.3).weigh(mean, std, torch.full_like(mean, math.nan))
    assert torch.equal(combined, mean)
    torch.testing.assert_close(doubt, torch.hypot(std, tensor(0.3)))


def test_a_second_lot_counts_as_much_as_the_first_on_its_scale_and_lessens_doubt():
    mean, std, again = tensor([1.0, 1.0]), tensor([0.1, 0.1]), tensor([1.8, math.nan])
    combined, doubt = Evidence(0.4, 0.3).weigh(mean, std, again)
    assert combined.tolist() == pytest.approx([0.5 * (1.0 + 1.4), 1.0])
    assert doubt[0] < doubt[1]
    assert doubt[0].item() == pytest.approx(math.sqrt(0.1**2 + 0.5 * 0.3**2))


@pytest.mark.parametrize(("target", "lowest"), [("log", math.log(LEAST)), ("raw", math.log(FLOOR))])
def test_what_has_no_effect_does_not_look_like_windows_that_mislead(target, lowest):
    posterior = Posterior(
        *[torch.ones(2, 2, dtype=torch.float64)] * 2, torch.ones(2), torch.ones(2), 1, 1, 0, 0, 1, target
    )
    assert posterior.least == lowest
    known = SimpleNamespace(least=lowest, log_predict=lambda x: (tensor([lowest, -1.0]), None))
    values = {"0": LEAST, "1": math.exp(-1.0)}
    rows = [Measurement(key, "rerank", value, (value,), 1, 0.0) for key, value in values.items()]
    evidence = compare(SPACE, known, rows)
    assert evidence.shift == pytest.approx(0.0, abs=1e-12)
    assert evidence.noise == pytest.approx(0.0, abs=1e-12)
