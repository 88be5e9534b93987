"""Rounds that are picked while others are measured: what is believed of them; nothing depends on who is done."""

import pytest
import torch
from analytic import SETTINGS, SPACE, AnalyticMeasure

from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.policy.scalarization import tchebycheff
from unicuco_plugin.search.candidates import believe
from unicuco_plugin.search.trainer import train

LAGGING = SETTINGS.model_copy(update={"initial": 12, "steps": 5, "pool": 40, "starts": 1, "picks": 3, "lag": 2})


class Ahead(AnalyticMeasure):
    """Notes what is begun, and how much of that had not been asked for."""

    def __init__(self):
        super().__init__()
        self.begun, self.asked, self.most = [], set(), 0

    def begin(self, fidelity, X):
        assert fidelity == "rank"
        keys = [SPACE.key(x) for x in X]
        assert not {*keys} & ({*self.begun} | self.asked)
        self.begun += keys
        self.most = max(self.most, len({*self.begun} - self.asked))

    def __call__(self, fidelity, X, report):
        self.asked |= {SPACE.key(x) for x in X}
        return super().__call__(fidelity, X, report)


@pytest.mark.slow
def test_rounds_are_begun_while_earlier_ones_are_measured_and_none_twice():
    measure = Ahead()
    result = train(SPACE, measure, tchebycheff, LAGGING)
    assert measure.most == 3 * LAGGING.picks
    assert result.epochs <= LAGGING.epochs
    assert len({row.key for row in result.ranked}) == len(result.ranked)
    # Whoever begins nothing early ends in the same archive.
    assert [*map(str, train(SPACE, AnalyticMeasure(), tchebycheff, LAGGING).ranked)] == [*map(str, result.ranked)]


def test_what_is_believed_changes_no_mean_and_takes_the_doubt_around_it():
    generator = torch.Generator().manual_seed(3)
    X, new, others = torch.rand(3, 6, 4, generator=generator, dtype=torch.float64)
    t = torch.randn(6, generator=generator, dtype=torch.float64)
    fit = Posterior(
        X, torch.eye(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64), t, 1.5, 1e-4, 0.2, -1.0, 0.7, "log"
    )
    before, after = fit.predict(others), believe(fit, [new[:1], new[1:2]]).predict(others)
    torch.testing.assert_close(after[0], before[0])
    assert bool((after[1] < before[1]).all())
    known, doubt = believe(fit, [new[:2]]).predict(new[:2])
    torch.testing.assert_close(known, fit.mean(new[:2]))
    assert bool((doubt < 0.02).all())
    assert believe(fit, []) is fit
