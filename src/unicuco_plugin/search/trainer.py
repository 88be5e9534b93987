"""The alternating loop: StratNet proposes, the objective measures, the surrogate learns, StratNet learns.

Notation as in UniCuCo's Algorithm 1: ``X``: n x d measured strategies; ``F``: n x 2 objectives (size, quality).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unicuco_plugin.search.contest import Contest
from unicuco_plugin.search.descent import propose_neighbours
from unicuco_plugin.search.evidence import compare
from unicuco_plugin.search.hypervolume import reference_point, select_by_improvement
from unicuco_plugin.search.journal import Measurement
from unicuco_plugin.search.measuring import CONFIRM, RANK, RERANK, Measure
from unicuco_plugin.search.posterior import Bound, Posterior
from unicuco_plugin.search.prior import Prior
from unicuco_plugin.search.result import TrainingResult
from unicuco_plugin.search.scalarization import Z_STAR, Scalarization, Scaling
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.search.stratnet import GRID, StratNet, imitate, preference_grid, sample_preferences, train_stratnet
from unicuco_plugin.search.surrogate import Surrogate, fit_surrogate
from unicuco_plugin.spaces.space import Space

__all__ = ["Progress", "quality_of", "train"]


@dataclass(frozen=True)
class Progress:
    """Where a training run is.

    Attributes:
        stage: What it is doing now.
        done, total: Evaluations finished, and the most there can be.
        tokens: Evaluation tokens so far.
        message: One line on the last finished step.
    """

    stage: str
    done: int
    total: int
    tokens: int
    message: str


def quality_of(posterior: Posterior, target: Tensor, settings: Settings) -> Tensor:
    """Turn the surrogate's target into the quality objective: nats per token, or their logarithm."""
    if settings.quality == "log":
        return target if posterior.target == "log" else posterior.divergence(target).log()
    return posterior.divergence(target)


def train(
    space: Space,
    measure: Measure,
    scalarization: Scalarization,
    settings: Settings,
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    first: Tensor | None = None,
    prior: Prior | None = None,
) -> TrainingResult:
    """Run Algorithm 1 with the settings' preset, then confirm the front on fresh windows.

    Args:
        space: Of the strategies.
        measure: Measures them, durably.
        scalarization: How a preference weighs size and quality.
        settings: Everything else that steers the run.
        progress: Called often.
        first: Strategies to measure before there is a surrogate, ``n x d``; filled up by the space's own.
        prior: What the surrogate's mean follows.

    The same arguments and measurements give the same result: nothing depends on time or on free memory.

    Source:
        UniCuCo, Algorithm 1 and Eqs. (6)-(13); deviations and additions in docs/training.md.
    """
    run = _Run(space, measure, scalarization, settings, progress)
    run.prior = prior
    run.given = run.X if first is None else first
    return run.train()


class _Run:
    def __init__(
        self,
        space: Space,
        measure: Measure,
        scalarization: Scalarization,
        settings: Settings,
        progress: Callable[[Progress], None],
    ) -> None:
        self.space, self.measure, self.scalarization, self.settings = space, measure, scalarization, settings
        self.progress = progress
        self.net = StratNet(len(space.units), settings.generator(1))
        self.rows: dict[str, list[Measurement]] = {RANK: [], RERANK: [], CONFIRM: []}
        self.X = torch.empty(0, len(space.units), dtype=torch.float64)
        self.given = self.X
        self.prior: Prior | None = None
        self.surrogate: Surrogate | None = None
        self.learned: tuple[Posterior, Scaling] | None = None
        self.epoch = 0
        budgets = len(space.budgets)
        again = 1 + settings.rerank + (0 if space.smooth else settings.verify)
        self.total = settings.initial + settings.epochs * settings.picks + budgets * again

    def train(self) -> TrainingResult:
        interrupted = False
        try:
            self._loop()
            self._verify()
            if self.settings.rerank:
                finalists = self._finalists(self._contest(), self.settings.rerank, self.settings.focus)
                self._measure(RERANK, finalists, "reranking")
            self._imitate(self._finalists(self._contest(), 1))
            # Held again: what StratNet proposes from now on is what a profile's answers will compare with.
            self._measure(CONFIRM, self._finalists(self._contest(), 1), "confirming")
        except KeyboardInterrupt:
            if self.learned is None:
                raise
            interrupted = True
        if self.learned is None:
            raise RuntimeError("training ended before the first surrogate")
        posterior, scaling = self.learned
        rows = self.rows
        return TrainingResult(
            self.net, posterior, scaling, rows[RANK], rows[RERANK], rows[CONFIRM], self.epoch, interrupted
        )

    def _loop(self) -> None:
        own = self.space.first(self.settings.initial, self.settings.generator(2), self.settings.focus)
        first = _distinct(self.space, torch.cat([self.given, own]), set())[: self.settings.initial]
        self._measure(RANK, first, "first strategies")
        self._learn()
        while self.epoch < self.settings.epochs:
            picks = self._pick()
            if not len(picks):
                break
            self._measure(RANK, picks, f"epoch {self.epoch + 1} of {self.settings.epochs}")
            self.epoch += 1
            self._learn()

    def _verify(self) -> None:
        """Measure the best of each budget where it is only predicted: of many predictions the lowest is too low.

        Not in a smooth space, where descents always end a little beside what was measured.
        """
        for _ in range(0 if self.space.smooth else self.settings.verify):
            known = {row.key for row in self.rows[RANK]}
            new = _distinct(self.space, self._finalists(self._contest(), 1, self.settings.focus), known)
            if not len(new):
                break
            self._measure(RANK, new, "verifying")
            self._learn()

    def _learn(self) -> None:
        """Fit the surrogate, freeze the scale, train StratNet on both."""
        settings = self.settings
        y = torch.tensor([row.value for row in self.rows[RANK]], dtype=torch.float64)
        self._report("fitting the surrogate", "")
        self.surrogate = fit_surrogate(
            self.X,
            y,
            self.space.features,
            target=settings.target,
            previous=self.surrogate,
            prior=self.prior,
            scales=self.space.scales,
        )
        posterior = self.surrogate.posterior
        scaling = Scaling.from_front(self._measured())

        def objectives(scores: Tensor) -> Tensor:
            return scaling.scale(self._objectives(posterior, self.space.relax(scores)))

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
        self.learned = posterior, scaling

    def _measured(self) -> Tensor:
        """``F`` of everything ranked so far, ``n x 2``."""
        y = torch.tensor([row.value for row in self.rows[RANK]], dtype=torch.float64)
        return torch.stack([1.0 - self.space.sparsity(self.X), y.log() if self.settings.quality == "log" else y], -1)

    def _learned(self) -> tuple[Posterior, Scaling]:
        if self.learned is None:
            raise RuntimeError("there is no surrogate before the first strategies are measured")
        return self.learned

    def _posterior(self) -> Posterior:
        return self._learned()[0]

    def _scaling(self) -> Scaling:
        return self._learned()[1]

    def _objectives(self, posterior: Posterior, x: Tensor) -> Tensor:
        target = posterior.bound(x, self.settings.bound, self.settings.kappa)
        return torch.stack([1.0 - self.space.sparsity(x), quality_of(posterior, target, self.settings)], -1)

    @torch.no_grad()
    def _pick(self) -> Tensor:
        """Choose what to measure next: the pool's greatest joint hypervolume improvement."""
        settings, posterior = self.settings, self._posterior()
        lam = sample_preferences(settings.pool, settings.generator(4, self.epoch))
        pool = [self.space.relax(self.net(lam)).round(decimals=6)]
        if settings.neighbours:
            pool.append(self._neighbours(settings.bound))
        known = {row.key for row in self.rows[RANK]}
        candidates = _distinct(self.space, torch.cat(pool), known)
        candidates = candidates[self.space.sparsity(candidates) <= settings.focus + 1e-9]
        if not len(candidates):
            return candidates
        F = self._measured()
        chosen = select_by_improvement(self._objectives(posterior, candidates), F, reference_point(F), settings.picks)
        return candidates[chosen]

    def _neighbours(self, bound: Bound) -> Tensor:
        settings = self.settings
        with torch.enable_grad():
            return propose_neighbours(
                self._posterior(),
                self.space,
                self.X,
                starts=settings.starts,
                bound=bound,
                kappa=settings.kappa,
                generator=settings.generator(5, self.epoch),
            ).detach()

    def _contest(self) -> Contest:
        """The race on all ranking evidence: measured, StratNet's, neighbours'."""
        again: dict[str, float | None] = {row.key: None for row in self.rows[RANK]}
        if self.settings.neighbours:
            again |= {self.space.key(row): None for row in self._neighbours("none")}
        again |= {row.key: row.value for row in self.rows[RERANK]}
        posterior = self._posterior()
        return Contest(self.space, self.net, posterior, again, compare(self.space, posterior, self.rows[RERANK]))

    def _finalists(self, contest: Contest, count: int, focus: float = 1.0) -> Tensor:
        """The ``count`` best of each budget."""
        chosen = []
        for race in contest.candidates([budget for budget in self.space.budgets if budget <= focus + 1e-9]):
            best = {c.key: c.x for c in sorted(race, key=lambda candidate: candidate.cautious)}
            chosen += list(best.values())[:count]
        return torch.stack(chosen) if chosen else self.X[:0]

    def _imitate(self, best: Tensor) -> None:
        """Show StratNet, for every preference, the best of the best of each budget."""
        settings, posterior = self.settings, self._posterior()
        if not settings.imitation:
            return
        lam = preference_grid(GRID)
        with torch.no_grad():
            quality = quality_of(posterior, posterior.mean(best), settings)
            f = self._scaling().scale(torch.stack([1.0 - self.space.sparsity(best), quality], -1))
            z_star = torch.full((2,), Z_STAR, dtype=torch.float64)
            g = torch.stack([self.scalarization(f, row.expand(len(f), 2), z_star) for row in lam])
        imitate(self.net, lam, best[g.argmin(1)], steps=settings.imitation, learning_rate=settings.learning_rate)

    def _measure(self, fidelity: str, X: Tensor, stage: str) -> None:
        if not len(X):  # no budget lies within the focus
            return
        # As the journal names them: a smooth space rounds, and what is learned from is what was measured.
        X = torch.stack([self.space.parse(self.space.key(row)) for row in X])
        before = sum(row.tokens for rows in self.rows.values() for row in rows)
        done = sum(map(len, self.rows.values()))
        self.rows[fidelity] += self.measure(
            fidelity, X, lambda count: self.progress(Progress(stage, done + count, self.total, before, ""))
        )
        if fidelity == RANK:
            self.X = torch.cat([self.X, X])
        values = [row.value for row in self.rows[fidelity][-len(X) :]]
        self._report(stage, f"{stage}: {len(X)} measured, {min(values):.3f} to {max(values):.3f} nats per token")

    def _report(self, stage: str, message: str) -> None:
        tokens = sum(row.tokens for rows in self.rows.values() for row in rows)
        self.progress(Progress(stage, sum(map(len, self.rows.values())), self.total, tokens, message))


def _distinct(space: Space, X: Tensor, known: set[str]) -> Tensor:
    seen = set(known)
    keep = []
    for index, row in enumerate(X):
        key = space.key(row)
        if key not in seen:
            seen.add(key)
            keep.append(index)
    return X[keep]
