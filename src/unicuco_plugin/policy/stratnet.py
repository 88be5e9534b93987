"""StratNet: the small network that turns a preference into a strategy.

====== ====== ================================================
symbol shape  meaning
====== ====== ================================================
lam    p x 2  preferences (size, quality), rows sum to 1
z      p x d  the network's scores: higher, sooner removed
x      p x d  strategies, ``space.relax(z)``
f      p x 2  scaled objectives (size, quality)
====== ====== ================================================
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from unicuco_plugin.policy.scalarization import Z_STAR, Scalarization

__all__ = ["GRID", "StratNet", "imitate", "preference_grid", "sample_preferences", "train_stratnet"]

# Preferences, evenly spaced, that stand for all of them where StratNet's proposals are compared.
GRID = 256
_WIDTH = 256  # the authors' related code: 2 -> 256 -> 256 -> d


class _Drawn(nn.Linear):
    """A linear whose first weights are drawn by whoever makes it, not by PyTorch's global generator.

    ``skip_init`` would do the same by way of the meta device, which imports sympy: half a second of each answer.
    """

    def reset_parameters(self) -> None:
        pass


class StratNet(nn.Module):
    """An MLP 2 → 256 → 256 → d with ReLU, in float64; the sigmoid is the space's (``relax``).

    Args:
        d: Units of the space.
        generator: Draws the initial weights.

    Source:
        UniCuCo, Eq. (3); widths in docs/method.md, "StratNet".
    """

    def __init__(self, d: int, generator: Generator) -> None:
        super().__init__()
        sizes = (2, _WIDTH, _WIDTH, d)
        linears = [_Drawn(a, b, dtype=torch.float64) for a, b in pairwise(sizes)]
        with torch.no_grad():
            for linear in linears:
                bound = linear.in_features**-0.5  # torch's own initialisation, drawn from our generator
                for parameter in (linear.weight, linear.bias):
                    uniform = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.copy_((2.0 * uniform - 1.0) * bound)
        self.layers = nn.Sequential(linears[0], nn.ReLU(), linears[1], nn.ReLU(), linears[2])

    def load_finite(self, state: Mapping[str, Tensor]) -> None:
        """Take over weights of a file.

        Raises:
            ValueError: If one is not finite.
            RuntimeError: If one is missing, too many, or of another shape.
        """
        if not all(bool(value.isfinite().all()) for value in state.values()):
            raise ValueError("StratNet's weights must be finite")
        self.load_state_dict(state)

    def forward(self, lam: Tensor) -> Tensor:
        """Map ``p x 2`` preferences to ``p x d`` scores."""
        scores: Tensor = self.layers(lam)
        return scores


def sample_preferences(count: int, generator: Generator) -> Tensor:
    """Draw ``count x 2`` preferences from Dirichlet(1, 1), the uniform distribution on the simplex."""
    first = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return torch.cat([first, 1.0 - first], -1)


def preference_grid(count: int) -> Tensor:
    """``count x 2`` preferences, evenly spaced inside the simplex."""
    first = (torch.arange(count, dtype=torch.float64)[:, None] + 0.5) / count
    return torch.cat([first, 1.0 - first], -1)


def train_stratnet(
    net: StratNet,
    objectives: Callable[[Tensor], Tensor],
    scalarization: Scalarization,
    *,
    steps: int,
    preferences: int,
    learning_rate: float,
    generator: Generator,
) -> None:
    """Minimise the expected scalarized objective over random preferences, in place.

    Args:
        net: The network; training continues from its weights, with a fresh Adam.
        objectives: From scores ``z`` to scaled objectives ``f``, differentiable.
        scalarization: From ``f``, ``lam`` and ``z*`` to one number per row.
        steps: Gradient steps ``I``.
        preferences: Preferences ``K`` a step.
        learning_rate: ``eta``.
        generator: Draws the preferences.

    Source:
        UniCuCo, Eqs. (6) and (11); Adam in docs/method.md, "StratNet".
    """
    z_star = torch.full((2,), Z_STAR, dtype=torch.float64)
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
    for _ in range(steps):
        lam = sample_preferences(preferences, generator)
        loss = scalarization(objectives(net(lam)), lam, z_star).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def imitate(net: StratNet, lam: Tensor, x: Tensor, *, steps: int, learning_rate: float) -> None:
    """Teach the network to answer preferences with given strategies, in place.

    The relaxed gradient of ``train_stratnet`` finds good strategies but may settle beside a better one that was
    measured; this shows it the best that is known (expert iteration). Its scores become the log-odds of each share.

    Args:
        net: The network; training continues from its weights, with a fresh Adam.
        lam: ``p x 2`` preferences.
        x: ``p x d`` strategies that answer them.
        steps: Gradient steps on all of them.
        learning_rate: Adam's.

    Source:
        Anthony et al. 2017, for the idea.
    """
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
    for _ in range(steps):
        loss = nn.functional.binary_cross_entropy_with_logits(net(lam), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
