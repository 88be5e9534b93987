r"""The surrogate's posterior in closed form: small tensors, no fitting library, differentiable in the strategy.

====== ======= ==============================================================================
symbol shape   meaning
====== ======= ==============================================================================
X      n x d   measured strategies
G      d x e   feature map of the space; the kernel compares ``X G``
ell    e       length scales (ARD)
tau2   scalar  output scale
sigma2 scalar  noise variance
m      scalar  constant mean
beta   scalar  weight of the prior's estimate in the mean; 0 without a prior
L      n x n   Cholesky factor of ``K + sigma2 I``
alpha  n       ``(K + sigma2 I)^-1 (t - m)``
t      n       targets, standardised: ``(target(f2) - shift) / scale``
====== ======= ==============================================================================
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor

from unicuco_plugin.objectives.floor import LEAST
from unicuco_plugin.policy.prior import Prior
from unicuco_plugin.threads import one_thread

__all__ = ["FLOOR", "LEVEL", "Z90", "Bound", "Posterior", "Target", "matern52", "matern52_of"]

Target = Literal["raw", "log"]
Bound = Literal["lower", "upper", "none"]

# Nats per token below which a prediction on the raw scale means nothing, and its logarithm would explode.
FLOOR = 0.01
# Every interval we report covers this share; a normal variable is within so many standard deviations as often.
LEVEL = 0.90
Z90 = 1.6448536269514722
# Strategies predicted at once: what many more make does not fit a core's cache, and takes three to five times as long.
_ROWS = 256
# Measured strategies that a surrogate is fitted on: some hundreds; a file that claims more would take all memory.
_MOST_POINTS = 5_000
_TENSORS = ("X", "G", "ell", "t")
_SCALARS = ("tau2", "sigma2", "m", "shift", "scale", "spread", "beta")


def matern52(a: Tensor, b: Tensor) -> Tensor:
    """Matérn 5/2 correlation of every row of ``a`` with every row of ``b``, already divided by length scales.

    Args:
        a: ``p x e``.
        b: ``q x e``.

    Returns:
        ``p x q`` correlations in (0, 1]; differentiable, with gradient zero where two rows are equal.

    Source:
        Rasmussen and Williams 2006, Eq. (4.17).
    """
    return matern52_of((a * a).sum(-1)[:, None] + (b * b).sum(-1)[None] - 2.0 * (a @ b.T))


def matern52_of(squares: Tensor) -> Tensor:
    """The same of squared distances in length scales, any shape."""
    # The floor keeps the square root's gradient finite at training points.
    r = (5.0 * squares).clamp_min(1e-12).sqrt()
    return (1.0 + r + r * r / 3.0) * (-r).exp()


@dataclass(frozen=True)
class Posterior:
    """A fitted Gaussian process, ready to predict; float64 throughout.

    Attributes:
        target: Whether it models the divergence itself or its logarithm.
        spread: Factor, at least 1, on the standard deviation, so that 90 % intervals cover 90 % of held-out points.
        prior: An additive estimate of the log divergence that the mean follows; with it the target is ``log``.
    """

    X: Tensor
    G: Tensor
    ell: Tensor
    t: Tensor
    tau2: float
    sigma2: float
    m: float
    shift: float
    scale: float
    target: Target
    spread: float = 1.0
    beta: float = 0.0
    prior: Prior | None = None

    @property
    def least(self) -> float:
        """The least logarithm of a divergence that it tells from others."""
        return math.log(LEAST if self.target == "log" else FLOOR)

    @cached_property
    def points(self) -> Tensor:
        """``n x e`` measured strategies in the kernel's coordinates."""
        return (self.X @ self.G) / self.ell

    @cached_property
    def L(self) -> Tensor:  # noqa: N802 - the algebra's name
        """``n x n`` Cholesky factor of the training covariance."""
        K = self.tau2 * matern52(self.points, self.points)
        return torch.linalg.cholesky(K + self.sigma2 * torch.eye(len(K), dtype=K.dtype))

    @cached_property
    def alpha(self) -> Tensor:
        """``n`` weights of the training targets in the mean."""
        return torch.cholesky_solve((self.t - self.expect(self.X))[:, None], self.L)[:, 0]

    @one_thread()
    def check_units(self, count: int) -> None:
        """Refuse a surrogate of another number of units, or one that cannot predict.

        Raises:
            ValueError: If it is for another number.
            RuntimeError: If its covariance is not positive definite.
        """
        if self.X.shape[1] != count:
            raise ValueError(f"surrogate's X must have one column for each of {count} units, got {self.X.shape[1]}")
        if not bool(self.alpha.isfinite().all()):
            raise ValueError("surrogate's covariance must be finite")

    def expect(self, x: Tensor) -> Tensor | float:
        """The mean before any measurement, standardised: ``m + beta (phi(x) - shift) / scale``."""
        if self.prior is None:
            return self.m
        return self.m + self.beta * (self.prior(x) - self.shift) / self.scale

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the target, noise left out.

        Args:
            x: ``p x d`` strategies, binary or relaxed.

        Returns:
            Two ``p`` tensors in the target's unit (nats per token, or their logarithm), differentiable in ``x``.
        """
        if len(x) > _ROWS:
            means, deviations = zip(*map(self.predict, x.split(_ROWS)), strict=True)
            return torch.cat(means), torch.cat(deviations)
        x = x.to(self.X)
        return self._condition(self.expect(x), matern52((x @ self.G) / self.ell, self.points))

    def predict_at(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """The same without a prior, at squared distances ``p x n`` to the measured strategies, in length scales."""
        r = squares.mul(5.0).clamp_min_(1e-12).sqrt_()
        # As in ``matern52_of``, to the bit; in place, since what is slow here is memory.
        correlations = (r * r).div_(3.0).add_(r + 1.0)
        return self._condition(self.m, correlations.mul_(r.neg_().exp_()))

    def _condition(self, expected: Tensor | float, correlations: Tensor) -> tuple[Tensor, Tensor]:
        k = self.tau2 * correlations
        mean = expected + k @ self.alpha
        v = torch.linalg.solve_triangular(self.L, k.T, upper=False)
        variance = (self.tau2 - (v * v).sum(0)).clamp_min(1e-12)
        return self.shift + self.scale * mean, self.scale * self.spread * variance.sqrt()

    def mean(self, x: Tensor) -> Tensor:
        """Only the mean of the target, ``p``; much cheaper than ``predict``."""
        if len(x) > _ROWS:
            return torch.cat([self.mean(rows) for rows in x.split(_ROWS)])
        x = x.to(self.X)
        k = self.tau2 * matern52((x @ self.G) / self.ell, self.points)
        return self.shift + self.scale * (self.expect(x) + k @ self.alpha)

    def bound(self, x: Tensor, mode: Bound, kappa: float) -> Tensor:
        """The optimist's, pessimist's or neutral estimate of the target: ``mu -+ kappa sigma`` or ``mu``.

        Source:
            UniCuCo, Eq. (9), with the sign that its name (lower confidence bound) says; docs/method.md, "Surrogate".
        """
        if mode == "none" or kappa == 0.0:
            return self.mean(x)
        mu, sigma = self.predict(x)
        return mu - kappa * sigma if mode == "lower" else mu + kappa * sigma

    def divergence(self, target: Tensor) -> Tensor:
        """Turn target values into nats per token, at least ``FLOOR``."""
        return target.exp() if self.target == "log" else target.clamp_min(FLOOR)

    def log_predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Median and standard deviation of the *logarithm* of the divergence, whatever the target is.

        A raw target is taken to first order, ``sigma / mu``, with ``mu`` at least ``FLOOR``.
        """
        mu, sigma = self.predict(x)
        if self.target == "log":
            return mu, sigma
        floored = mu.clamp_min(FLOOR)
        return floored.log(), sigma / floored

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything but ``target`` as tensors, for a safetensors file; ``L`` and ``alpha`` follow from the rest."""
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        if self.prior is not None:
            tensors |= {"knots": self.prior.knots.contiguous(), "costs": self.prior.costs.contiguous()}
        return tensors | {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in _SCALARS}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], target: Target) -> Self:
        """Read what ``to_tensors`` wrote.

        Raises:
            ValueError: If a tensor is missing, shapes disagree, or values are not finite.
        """
        optional = ("knots", "costs") if "knots" in tensors or "costs" in tensors else ()
        missing = [name for name in (*_TENSORS, *optional, *_SCALARS) if name not in tensors]
        if missing:
            raise ValueError(f"surrogate lacks {', '.join(missing)}")
        if tensors["X"].dim() != 2 or tensors["ell"].dim() != 1:
            raise ValueError("surrogate's X must be n x d and its ell a list")
        for name in (*_TENSORS, *optional):
            tensors = tensors | {name: tensors[name].double()}
        n, d = tensors["X"].shape
        if not 0 < n <= _MOST_POINTS:
            raise ValueError(f"surrogate's X must have 1 to {_MOST_POINTS} rows, got {n}")
        shapes = {"G": (d, tensors["ell"].numel()), "t": (n,)}
        for name, shape in shapes.items():
            if tuple(tensors[name].shape) != shape:
                raise ValueError(f"surrogate's {name} must be {shape}, got {tuple(tensors[name].shape)}")
        if not all(bool(tensors[name].isfinite().all()) for name in (*_TENSORS, *optional, *_SCALARS)):
            raise ValueError("surrogate's tensors must be finite")
        X, G, ell, t = (tensors[name] for name in _TENSORS)
        prior = Prior(tensors["knots"], tensors["costs"]) if optional else None
        if prior is not None and len(prior.costs) != d:
            raise ValueError(f"surrogate's costs must be ({d}, {len(prior.knots)}), got {tuple(prior.costs.shape)}")
        tau2, sigma2, m, shift, scale, spread, beta = (float(tensors[name]) for name in _SCALARS)
        for name, value, positive in (
            ("ell", float(ell.min()), True),
            ("tau2", tau2, True),
            ("sigma2", sigma2, False),
            ("scale", scale, True),
            ("spread", spread, True),
        ):
            if value < 0.0 or (positive and value == 0.0):
                raise ValueError(f"surrogate's {name} must be positive, got {value}")
        return cls(X, G, ell, t, tau2, sigma2, m, shift, scale, target, spread, beta, prior)
