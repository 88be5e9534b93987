"""What one round of a search costs besides measuring, by phase, and what whole searches find.

    OMP_NUM_THREADS=1 python benchmarks/search_cost.py --output benchmarks/results/search-cost.json
    OMP_NUM_THREADS=1 python benchmarks/search_cost.py --searches --output benchmarks/results/search-quality.json

No language model: units cost something alone and in pairs with those beside them, ends of the model cost most. A
round is what ``Exploration`` does between two lots of measurements, from as many as a search has made halfway: the
warm fit of the surrogate, StratNet's steps, descents at every budget, the picks; ``contest`` is the race at every
budget, once in a while. Processor seconds. ``--parts`` runs one budget in so many and multiplies.
``--before FILE`` puts a pinned result of the same command beside this one, and their ratios.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import write_result
from torch import Tensor

from unicuco_plugin.costs.model import kept_share
from unicuco_plugin.journal.journal import Measurement
from unicuco_plugin.journal.measuring import CONFIRM, RANK
from unicuco_plugin.policy.contest import Contest
from unicuco_plugin.policy.descent import propose_neighbours
from unicuco_plugin.policy.evidence import Evidence
from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.policy.scalarization import tchebycheff
from unicuco_plugin.policy.stratnet import StratNet, sample_preferences, train_stratnet
from unicuco_plugin.search.candidates import distinct, quality_of
from unicuco_plugin.search.hypervolume import reference_point, scale_front, select_by_improvement
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.search.surrogate import fit_surrogate
from unicuco_plugin.search.trainer import train
from unicuco_plugin.spaces.depth import DepthSpace
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.spaces.sparsity import SparsitySpace
from unicuco_plugin.spaces.structured import StructuredSpace
from unicuco_plugin.spaces.sublayer import SublayerSpace
from unicuco_plugin.training.block_groups import group_blocks

SPACES = ("depth", "sublayer", "structured", "sparsity")
UNITS = (30, 60, 80, 160, 560)
SEEDS = (0, 1, 2)


def make_space(name: str, d: int) -> Space:
    """Blocks, or attentions and MLPs three times as large, or the seven linears of a block."""
    if name == "depth":
        return DepthSpace(tuple(f"model.layers.{i}" for i in range(d)), (4,) * d)
    if name == "sparsity":
        kinds = ("q", "k", "v", "o", "gate", "up", "down") if d % 7 == 0 else ("all",)
        names = tuple(f"model.layers.{i // len(kinds)}.{kinds[i % len(kinds)]}" for i in range(d))
        return SparsitySpace(names, tuple(8192 * (3 if i % 7 > 3 else 1) for i in range(d)))
    names = tuple(f"model.layers.{i // 2}.{('self_attn', 'mlp')[i % 2]}" for i in range(d))
    if name == "sublayer":
        return SublayerSpace(names, (10, 30) * (d // 2))
    return StructuredSpace(names, (9 * 4096, 48 * 32 * 96) * (d // 2), ((9, 3), (48 * 32, 32)) * (d // 2))


@dataclass
class Problem:
    """Divergences of strategies over ``d`` units, smooth in shares, with pairs that help or hurt each other."""

    space: Space
    seed: int

    def __post_init__(self) -> None:
        d, generator = len(self.space.units), torch.Generator().manual_seed(1000 + self.seed)
        weight = self.space.params / self.space.params.mean()
        alone = (0.8 * torch.randn(d, generator=generator, dtype=torch.float64)).exp() * weight
        ends = max(1, d // 20)
        alone[:ends] *= 4.0
        alone[-ends:] *= 4.0
        apart = (torch.arange(d)[:, None] - torch.arange(d)).abs()
        pairs = 0.5 * torch.randn(d, d, generator=generator, dtype=torch.float64) * (-apart / 3.0).exp()
        pairs = pairs.triu(1) * (alone[:, None] * alone).sqrt()
        self.alone, self.pairs = alone / alone.sum(), pairs / alone.sum()

    def __call__(self, X: Tensor, shift: float = 0.0) -> Tensor:
        """Nats per token of ``n x d`` strategies; ``shift`` stands for other windows."""
        harm = (X**1.5 @ self.alone + ((X @ self.pairs) * X).sum(-1)).clamp_min(1e-4) ** 0.8
        noise = 0.02 * torch.sin(1e4 * (harm + shift))  # windows mislead a little, always the same way
        return 0.02 * (7.0 * harm / (harm + 0.4) + shift + noise).exp()

    def measure(self, fidelity: str, X: Tensor, report: Callable[[int], None]) -> list[Measurement]:
        """See ``Measure``."""
        values = self(X, 0.0 if fidelity == RANK else 0.03).tolist()
        report(len(values))
        return [
            Measurement(self.space.key(row), fidelity, value, (value,) * 4, 1024, 0.0)
            for row, value in zip(X, values, strict=True)
        ]

    def halfway(self, settings: Settings, count: int) -> Tensor:
        """As many strategies as asked for: first ones, and good ones with noise, as a search would have picked."""
        space, generator = self.space, torch.Generator().manual_seed(self.seed)
        rows = [space.first(settings.initial, generator)]
        budgets = [budget for budget in space.budgets if budget <= settings.focus]
        known = {space.key(row) for row in rows[0]}
        while sum(map(len, rows)) < count:
            budget = budgets[int(torch.randint(len(budgets), (1,), generator=generator))]
            noise = 0.5 * torch.randn(1, len(self.alone), generator=generator, dtype=torch.float64)
            z = -(self.alone / space.params).log()
            row = space.project(z - z.mean() + noise, budget)
            row = torch.stack([space.parse(space.key(row[0]))])
            rows.append(distinct(space, row, known))
            known |= {space.key(r) for r in row}
        return torch.cat(rows)


def one_round(name: str, d: int, every: int) -> dict[str, Any]:
    """Seconds by phase."""
    space = make_space(name, d)
    problem, settings = Problem(space, 0), Settings()
    groups = name == "sublayer"
    if groups:  # twice as many first strategies and picks, and what the search over blocks has measured
        settings = settings.model_copy(update={"initial": 2 * settings.initial, "picks": 2 * settings.picks})
    loop = settings.initial + settings.picks * (settings.epochs // 2)
    count = loop + (Settings().initial + Settings().picks * Settings().epochs if groups else 0)
    X = problem.halfway(settings, count)
    y, seconds = problem(X), {}

    def timed(phase: str, call: Callable[[], Any], times: float = 1.0) -> Any:
        start = time.process_time()
        result = call()
        seconds[phase] = round(times * (time.process_time() - start), 3)
        return result

    fit = partial(fit_surrogate, G=space.features, scales=space.scales)
    new = settings.picks
    before = fit(X[:-new], y[:-new])
    posterior: Posterior = timed("fit", lambda: fit(X, y, previous=before)).posterior
    F = torch.stack([kept_share(space.params, X), y.log()], -1)
    scaling, net = scale_front(F), StratNet(d, settings.generator(1))

    def objectives(x: Tensor) -> Tensor:
        target = posterior.bound(x, settings.bound, settings.kappa)
        return torch.stack([kept_share(space.params, x), quality_of(posterior, target, settings)], -1)

    timed(
        "stratnet",
        lambda: train_stratnet(
            net,
            lambda scores: scaling.scale(objectives(space.relax(scores))),
            tchebycheff,
            steps=settings.steps,
            preferences=settings.preferences,
            learning_rate=settings.learning_rate,
            generator=settings.generator(3, 0),
        ),
    )
    some = make_space(name, d)
    vars(some)["budgets"] = space.budgets[every // 2 :: every]
    times = len(space.budgets) / len(some.budgets)
    ends = timed(
        "descents",
        lambda: propose_neighbours(
            posterior, some, X, starts=settings.starts, bound=settings.bound, kappa=settings.kappa,
            generator=settings.generator(5, 0),
        ).detach(),
        times,
    )  # fmt: skip

    @torch.no_grad()
    def pick() -> None:
        lam = sample_preferences(settings.pool, settings.generator(4, 0))
        pool = torch.cat([space.relax(net(lam)).round(decimals=6), ends])
        candidates = distinct(space, pool, {space.key(row) for row in X})
        select_by_improvement(objectives(candidates), F, reference_point(F), settings.picks)

    timed("picks", pick)
    archive = dict.fromkeys([*map(space.key, X), *map(space.key, ends)])
    timed("contest", lambda: Contest(some, net, posterior, archive, Evidence()).best(some.budgets), times)
    bound = posterior.bound(ends, settings.bound, settings.kappa)
    budgets = [(space.sparsity(ends) - budget).abs() < 1e-2 for budget in some.budgets]
    best = [bound[at].min().item() for at in budgets if bool(at.any())]
    return {
        "measured": count,
        "budgets_run": f"{len(some.budgets)} of {len(space.budgets)}",
        "seconds": seconds,
        "round": round(sum(value for phase, value in seconds.items() if phase != "contest"), 3),
        "ends": len(ends),
        "mean_bound": round(statistics.mean(best), 6),
    }


def whole_search(name: str, d: int, seed: int) -> dict[str, Any]:
    """What a search with the default settings finds: true divergences of its best strategy at each budget."""
    space = make_space(name, d)
    problem, settings = Problem(space, seed), Settings(seed=seed)
    groups = group_blocks(space) if isinstance(space, SublayerSpace) else None
    start = time.process_time()
    result = train(space, problem.measure, tchebycheff, settings, groups=groups)
    seconds = time.process_time() - start
    best: dict[float, float] = {}
    for row in (row for row in result.confirmed if row.fidelity == CONFIRM):
        x = space.parse(row.key)[None]
        size = round(space.sparsity(x).item(), 4 if not space.smooth else 2)
        best[size] = min(problem(x).item(), best.get(size, math.inf))
    return {"seconds": round(seconds, 1), "divergence": {str(size): round(y, 6) for size, y in sorted(best.items())}}


def compare(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """Ratios of each entry to the pinned one: of seconds, of divergences."""
    ratios: dict[str, Any] = {}
    for key, entry in new.items():
        if key not in old:
            continue
        if "divergence" in entry:
            found = [entry["divergence"][b] / y for b, y in old[key]["divergence"].items() if b in entry["divergence"]]
            ratios[key] = {
                "faster": round(old[key]["seconds"] / entry["seconds"], 2),
                "geometric_mean": round(statistics.geometric_mean(found), 5),
                "worst": round(max(found), 5),
                "budgets": len(found),
            }
        else:
            ratios[key] = {"round_faster": round(old[key]["round"] / entry["round"], 2)} | {
                phase: round(old[key]["seconds"][phase] / max(value, 1e-3), 2)
                for phase, value in entry["seconds"].items()
            }
    return ratios


def main() -> None:
    """Time rounds, or run searches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", action="store_true", help="whole searches at --units, for three seeds")
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=SPACES)
    parser.add_argument("--units", nargs="+", type=int, default=UNITS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--parts", nargs="*", default=[], metavar="SPACE-UNITS=EVERY")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = {key: int(every) for key, every in (part.split("=") for part in args.parts)}
    found: dict[str, Any] = {}
    for name in args.spaces:
        for d in args.units:
            key = f"{name}-{d}"
            if args.searches:
                found |= {f"{key}-seed{seed}": whole_search(name, d, seed) for seed in args.seeds}
            else:
                found[key] = one_round(name, d, parts.get(key, 1))
            print(json.dumps({k: v for k, v in found.items() if k.startswith(key)}), flush=True)
            kind = "searches" if args.searches else "rounds"
            result: dict[str, Any] = {kind: found}
            if args.before:
                pinned = json.loads(args.before.read_text(encoding="utf8"))[kind]
                result |= {"before": pinned, "ratios": compare(found, pinned)}
            write_result(args.output, result)  # each time: a run that is stopped keeps what it has


if __name__ == "__main__":
    main()
