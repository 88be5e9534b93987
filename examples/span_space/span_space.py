"""A plugin that adds a space: one run of neighbouring blocks goes, and two runs of the dense model stay.

The package's own space ``depth`` takes blocks from anywhere; this one has one strategy per place and length of a
run. Its traits say that units are blocks that drop out, so it is measured, trained, answered, applied and exported as
``depth`` is. ``pip install examples/span_space`` installs it as a plugin, by the entry point in its ``pyproject.toml``:
then ``unicuco plugins`` lists ``span``, and ``unicuco train MODEL --space span`` trains for it. As a script it trains a
profile and prunes a quarter of the model: ``python examples/span_space/span_space.py MODEL OUTPUT [TEXT...]``.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Generator, Tensor

from unicuco_plugin import (
    Effect,
    Settings,
    Space,
    SpaceTraits,
    SparsityProfileModifier,
    UnicucoError,
    hookimpl,
    plugin_manager,
    prune,
    train_profile,
)

NAME = "span"
Groups = tuple[tuple[int, ...], ...]


def _run(d: int, first: int, count: int) -> Tensor:
    return torch.tensor([float(first <= place < first + count) for place in range(d)], dtype=torch.float64)


class SpanSpace:
    """Strategies over ``d`` blocks of one size: 1 in one run of neighbours, 0 elsewhere. Methods: see ``Space``."""

    name, smooth, stepped, physical, bounds, scales = NAME, False, False, True, (), ()

    def __init__(self, units: tuple[str, ...], params: tuple[int, ...], needed: Groups) -> None:
        if len(set(params)) > 1:
            raise UnicucoError("span counts blocks, which must have one size; take the space depth")
        self.units, self.needed, self.params = units, needed, torch.tensor(params, dtype=torch.float64)
        d, self.features = len(units), torch.eye(len(units), dtype=torch.float64)
        runs = torch.stack([_run(d, first, count) for count in range(1, d) for first in range(d - count + 1)])
        stays = [(runs[:, list(group)] == 0).any(-1) for group in needed]
        self.runs = runs[torch.stack(stays).all(0)] if stays else runs
        self.budgets = tuple(self.sparsity(self.runs).unique().tolist())
        self.most = self.budgets[-1]

    def sparsity(self, x: Tensor) -> Tensor:
        return (x.to(self.params) @ self.params) / self.params.sum()

    def reaching(self, sparsity: float) -> float:
        found = [budget for budget in self.budgets if budget >= sparsity - 1e-9]
        if not found:
            raise UnicucoError(f"sparsity must be at most {self.most:.4f} for span, got {sparsity:.6g}")
        return found[0]

    def at(self, sparsity: float) -> Tensor:
        return self.runs[self.near(self.runs, self.reaching(sparsity))]

    def relax(self, logits: Tensor) -> Tensor:
        soft = logits.sigmoid()  # straight through: forward the run with the largest sum, backward this
        return self.runs[(logits.detach().to(self.runs) @ self.runs.T).argmax(-1)].to(soft) + soft - soft.detach()

    def project(self, scores: Tensor, sparsity: float) -> Tensor:
        runs = self.at(sparsity)
        return runs[(scores.to(runs) @ runs.T).argmax(-1)]

    def near(self, X: Tensor, sparsity: float) -> Tensor:
        return (self.sparsity(X) - sparsity).abs() < 1e-9  # shares are sums of floats

    def moved(self, X: Tensor, sparsity: float) -> Tensor:
        return X

    def first(self, count: int, generator: Generator, most: float = 1.0) -> Tensor:
        # Runs are listed by length: single blocks first, then the others at random, those within the limit first.
        one = len(self.at(0.0))
        rest = self.runs[one:][torch.randperm(len(self.runs) - one, generator=generator)]
        longer = self.sparsity(rest) > most
        return torch.cat([self.runs[:one], rest[~longer], rest[longer]])[:count]

    def random(self, count: int, sparsity: float, generator: Generator) -> Tensor:
        runs = self.at(sparsity)
        return runs[torch.randint(len(runs), (count,), generator=generator)]

    def neighbours(self, x: Tensor) -> Tensor:
        return self.at(self.sparsity(x[:1]).item()).expand(len(x), -1, -1)

    def scores(self, x: Tensor) -> Tensor:
        return x

    def to_units(self, x: Tensor) -> dict[str, float]:
        return {self.units[index]: 1.0 for index in x.nonzero()[:, 0].tolist()}

    def from_units(self, units: Mapping[str, float]) -> Tensor:
        x = torch.tensor([units.get(unit, 0.0) for unit in self.units], dtype=torch.float64)
        if units.keys() - set(self.units) or not (self.runs == x).all(-1).any():
            raise UnicucoError(f"units must be one run of neighbouring blocks, got {', '.join(units)[:100]}")
        return x

    def key(self, x: Tensor) -> str:
        return "{}-{}".format(*x.nonzero()[[0, -1], 0].tolist())

    def parse(self, key: str) -> Tensor:
        first, last = map(int, key.split("-"))
        return _run(len(self.units), first, last - first + 1)


@hookimpl
def unicuco_list(kind: str) -> list[str]:
    """Name what this plugin adds."""
    return [NAME] if kind == "space" else []


@hookimpl
def unicuco_make_space(name: str, units: tuple[str, ...], params: tuple[int, ...], needed: Groups) -> Space | None:
    """Build the space if it is ours."""
    return SpanSpace(units, params, needed) if name == NAME else None


@hookimpl
def unicuco_space_traits(name: str) -> SpaceTraits | None:
    """Its units are blocks, and each leaves the model as a whole."""
    return SpaceTraits(NAME, Effect.DROP) if name == NAME else None


def main(model: str, output: str, *texts: str, settings: Settings | None = None) -> None:
    """Train a profile, and prune a quarter of the model by its answer."""
    manager, folder = plugin_manager(), Path(output)
    if not manager.is_registered(sys.modules[__name__]):
        manager.register(sys.modules[__name__], name=NAME)
    train_profile(model, folder / "profile", space=NAME, calibration=texts, settings=settings)
    asked = SparsityProfileModifier(profile=folder / "profile", request={"sparsity": 0.25})
    done = prune(model, asked, folder / "checkpoint")
    print(f"{done.params:,} parameters without {', '.join(done.strategies[0].units)}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
