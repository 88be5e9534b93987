"""The alternating loop: StratNet proposes, the objective measures, the surrogate learns, StratNet learns.

Notation as in UniCuCo's Algorithm 1: ``X``: n x d measured strategies; ``F``: n x 2 objectives (size, quality).
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from unicuco_plugin.costs.model import Cost, kept_share
from unicuco_plugin.journal.journal import Measurement
from unicuco_plugin.journal.measuring import CONFIRM, RANK, RERANK, Measure, begin
from unicuco_plugin.policy.contest import Contest
from unicuco_plugin.policy.descent import move_beside, propose_neighbours
from unicuco_plugin.policy.evidence import compare
from unicuco_plugin.policy.posterior import Bound, Posterior
from unicuco_plugin.policy.prior import Prior
from unicuco_plugin.policy.scalarization import Scalarization, Scaling
from unicuco_plugin.policy.stratnet import StratNet, sample_preferences, train_stratnet
from unicuco_plugin.progress import Progress
from unicuco_plugin.search.candidates import believe, canonical, distinct, most_measurements, of_account, quality_of
from unicuco_plugin.search.hypervolume import reference_point, scale_front, select_by_improvement
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.search.surrogate import Surrogate, fit_surrogate
from unicuco_plugin.spaces.space import Space

__all__ = ["Exploration"]


class Exploration:
    """One space's search: what was measured, and what was learned from it.

    Args:
        space: Of the strategies.
        measure: Measures them, durably.
        scalarization: How a preference weighs size and quality.
        settings: Everything else that steers the run.
        progress: Called often.
        first: Strategies to measure before there is a surrogate, ``n x d``; filled up by the space's own.
        known: Measurements on the ranking windows that another search has made; they join once those are measured.
        prior: What the surrogate's mean follows.
        cost: The first objective; the share of the space's weights that is left, if left out.
        after: Measurements to come once this is over, for progress.

    Attributes:
        space, settings, scalarization, cost: As given.
        net: StratNet.
        rows: Measurements by fidelity; what was known stands where it joined.
        X: ``n x d`` strategies that were ranked.
        epoch: Rounds that were run.
    """

    def __init__(
        self,
        space: Space,
        measure: Measure,
        scalarization: Scalarization,
        settings: Settings,
        progress: Callable[[Progress], None],
        *,
        first: Tensor | None = None,
        known: Sequence[Measurement] = (),
        prior: Prior | None = None,
        cost: Cost | None = None,
        after: int = 0,
    ) -> None:
        self.space, self.scalarization, self.settings = space, scalarization, settings
        self.cost = cost or partial(kept_share, space.params)
        self.net = StratNet(len(space.units), settings.generator(1))
        self.rows: dict[str, list[Measurement]] = {RANK: [], RERANK: [], CONFIRM: []}
        self.X = torch.empty(0, len(space.units), dtype=torch.float64)
        self.epoch = 0
        self._ask, self._progress, self._prior = measure, progress, prior
        self._first = self.X if first is None else first
        self._known = list(known)
        self._leads = self.X
        self._surrogate: Surrogate | None = None
        self._learned: tuple[Posterior, Scaling] | None = None
        self._descended: dict[Bound, Tensor] = {}
        self._pending: deque[Tensor] = deque()
        self._total = len(known) + most_measurements(space, settings) + after

    @property
    def has_learned(self) -> bool:
        """Whether there is a surrogate."""
        return self._learned is not None

    @property
    def learned(self) -> tuple[Posterior, Scaling]:
        """The surrogate and the frozen scale."""
        if self._learned is None:
            raise RuntimeError("there is no surrogate before the first strategies are measured")
        return self._learned

    def explore(self) -> None:
        """Measure on the ranking windows until nothing promises to improve, or the settings' rounds are over."""
        own = self.space.first(self.settings.initial, self.settings.generator(2), self.settings.focus)
        first = distinct(self.space, torch.cat([self._first, own]), {row.key for row in self._known})
        self.measure(RANK, first[: self.settings.initial], "first strategies")
        self._learn()
        self.join()
        while True:
            number = self.epoch + len(self._pending)
            picks = self._pick(number) if number < self.settings.epochs else self.X[:0]
            if len(picks):
                self._pending.append(canonical(self.space, picks))
                begin(self._ask, RANK, self._pending[-1])
            if not self._pending:
                break
            if len(self._pending) > self.settings.lag or not len(picks):
                self.measure(RANK, self._pending.popleft(), f"epoch {self.epoch + 1} of {self.settings.epochs}")
                self.epoch += 1
                self._learn()
        self._verify()

    def join(self) -> None:
        """Learn what is known from elsewhere; a search chose it, so the target is judged without it if it can be."""
        if self._known:
            X = torch.stack([self.space.parse(row.key) for row in self._known])
            self.rows[RANK] += self._known
            self.X = torch.cat([self.X, X])
            self._known = []
            self._learn()
            self._leads = move_beside(self.learned[0], self.space, X)

    def _verify(self) -> None:
        """Measure the best of each budget where it is only predicted: of many predictions the lowest is too low.

        Not in a smooth space, where descents always end a little beside what was measured.
        """
        for _ in range(0 if self.space.smooth else self.settings.verify):
            new = distinct(self.space, self.finalists(1, self.settings.focus), {row.key for row in self.rows[RANK]})
            if not len(new):
                break
            self.measure(RANK, new, "verifying")
            self._learn()

    def _learn(self) -> None:
        """Fit the surrogate, freeze the scale, train StratNet on both."""
        settings = self.settings
        y = torch.tensor([row.value for row in self.rows[RANK]], dtype=torch.float64)
        self._report("fitting the surrogate", "")
        self._surrogate = fit_surrogate(
            self.X,
            y,
            self.space.features,
            target=settings.target,
            previous=self._surrogate,
            prior=self._prior,
            scales=self.space.scales,
        )
        posterior, scaling = self._surrogate.posterior, scale_front(self._measured())
        believed = believe(posterior, self._pending)

        def objectives(scores: Tensor) -> Tensor:
            return scaling.scale(self._objectives(believed, self.space.relax(scores)))

        self._report("training StratNet", "")
        train_stratnet(
            self.net,
            objectives,
            self.scalarization,
            steps=settings.steps,
            preferences=settings.preferences,
            learning_rate=settings.learning_rate,
            generator=settings.generator(3, self.epoch),
        )
        self._learned, self._descended = (posterior, scaling), {}

    def _measured(self) -> Tensor:
        """``F`` of everything ranked so far, ``n x 2``."""
        y = torch.tensor([row.value for row in self.rows[RANK]], dtype=torch.float64)
        return torch.stack([self.cost(self.X), y.log() if self.settings.quality == "log" else y], -1)

    def _objectives(self, posterior: Posterior, x: Tensor) -> Tensor:
        target = posterior.bound(x, self.settings.bound, self.settings.kappa)
        return torch.stack([self.cost(x), quality_of(posterior, target, self.settings)], -1)

    @torch.no_grad()
    def _pick(self, number: int) -> Tensor:
        """Choose a round: the pool's greatest joint hypervolume improvement on what is known, or believed meanwhile."""
        settings, pending = self.settings, torch.cat([self.X[:0], *self._pending])
        posterior = believe(self.learned[0], self._pending)
        lam = sample_preferences(settings.pool, settings.generator(4, number))
        pool = [self.space.relax(self.net(lam)).round(decimals=6), self._leads]
        if settings.neighbours:
            pool.append(self._neighbours(settings.bound))
        known = {row.key for row in self.rows[RANK]} | {self.space.key(row) for row in pending}
        candidates = distinct(self.space, torch.cat(pool), known)
        candidates = candidates[self.space.sparsity(candidates) <= settings.focus + 1e-9]
        if not len(candidates):
            return candidates
        F = self._measured()
        if len(pending):
            believed = quality_of(posterior, posterior.mean(pending), settings)
            F = torch.cat([F, torch.stack([self.cost(pending), believed], -1)])
        F, promised = of_account(F, settings), of_account(self._objectives(posterior, candidates), settings)
        return candidates[select_by_improvement(promised, F, reference_point(F), settings.picks)]

    def _neighbours(self, bound: Bound) -> Tensor:
        """Ends of descents on what was learned last, found once."""
        settings = self.settings
        if bound not in self._descended:
            with torch.enable_grad():
                self._descended[bound] = propose_neighbours(
                    self.learned[0],
                    self.space,
                    self.X,
                    starts=settings.starts,
                    bound=bound,
                    kappa=settings.kappa,
                    generator=settings.generator(5, self.epoch),
                ).detach()
        return self._descended[bound]

    def _contest(self) -> Contest:
        """The race on all ranking evidence: measured, StratNet's, neighbours'."""
        again: dict[str, float | None] = {row.key: None for row in self.rows[RANK]}
        if self.settings.neighbours:
            again |= {self.space.key(row): None for row in self._neighbours("none")}
        again |= {row.key: row.value for row in self.rows[RERANK]}
        posterior = self.learned[0]
        return Contest(self.space, self.net, posterior, again, compare(self.space, posterior, self.rows[RERANK]))

    def finalists(self, count: int, focus: float = 1.0) -> Tensor:
        """The ``count`` best of each budget, by all that is known now."""
        contest = self._contest()
        chosen = []
        for race in contest.candidates([budget for budget in self.space.budgets if budget <= focus + 1e-9]):
            best = {c.key: c.x for c in sorted(race, key=lambda candidate: candidate.cautious)}
            chosen += list(best.values())[:count]
        return torch.stack(chosen) if chosen else self.X[:0]

    def measure(self, fidelity: str, X: Tensor, stage: str) -> None:
        """Measure ``n x d`` strategies and keep what comes of it in ``rows``."""
        if not len(X):  # no budget lies within the focus
            return
        X = canonical(self.space, X)
        self.rows[fidelity] += self._ask(fidelity, X, lambda count: self._report(stage, "", count))
        if fidelity == RANK:
            self.X = torch.cat([self.X, X])
        values = [row.value for row in self.rows[fidelity][-len(X) :]]
        self._report(stage, f"{stage}: {len(X)} measured, {min(values):.3f} to {max(values):.3f} nats per token")

    def _report(self, stage: str, message: str, more: int = 0) -> None:
        rows = [*self._known, *(row for rows in self.rows.values() for row in rows)]
        self._progress(Progress(stage, len(rows) + more, self._total, sum(row.tokens for row in rows), message))
