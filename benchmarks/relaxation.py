"""From StratNet's scores to blocks that go: which relaxation trains the better network?

    python benchmarks/relaxation.py --profile PROFILE --output benchmarks/results/relaxation.json

No language model: networks are trained from scratch on a profile's own surrogate, with each relaxation, seed and number
of steps, and judged by what their proposals are predicted to cost. For every budget up to ``focus`` the network's best
projected proposal is compared with the best end of 200 descents on the same posterior; the result is the mean excess of
log divergence. ``straight_through`` is what ``DepthSpace.relax`` does.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import write_result
from torch import Tensor

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.costs.model import kept_share
from unicuco_plugin.plugins.manager import make_scalarization
from unicuco_plugin.policy.descent import propose_neighbours
from unicuco_plugin.policy.scalarization import Scaling
from unicuco_plugin.policy.stratnet import StratNet, preference_grid, train_stratnet
from unicuco_plugin.search.candidates import quality_of
from unicuco_plugin.search.settings import Settings

SEEDS = (0, 1, 2)
STEPS = (300, 1200)


def main() -> None:
    """Train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    profile = load_profile(args.profile)
    settings = Settings.model_validate(profile.provenance["settings"])
    best = _best(profile, settings)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "straight_through": profile.search_space.relax,
        "sigmoid": torch.sigmoid,
        "straight_through_threshold": _threshold,
    }
    result: dict[str, Any] = {}
    for name, relax in ways.items():
        for steps in STEPS:
            excess = [_excess(profile, relax, steps, seed, best) for seed in SEEDS]
            result[f"{name}/{steps}"] = {
                "mean": round(statistics.mean(excess), 4),
                "seeds": [round(e, 4) for e in excess],
            }
            print(name, steps, result[f"{name}/{steps}"])
    write_result(args.output, {"excess_log_divergence": result})


def _threshold(logits: Tensor) -> Tensor:
    soft = logits.sigmoid()
    return (soft > 0.5).to(soft) + soft - soft.detach()


def _best(profile: Profile, settings: Settings) -> dict[float, float]:
    generator = torch.Generator().manual_seed(1)
    space, posterior = profile.search_space, profile.posterior
    ends = propose_neighbours(
        posterior, space, posterior.X, starts=200, bound="none", kappa=0.0, generator=generator
    ).detach()
    mean = posterior.log_predict(ends)[0]
    sparsity = space.sparsity(ends)
    focus = [budget for budget in space.budgets if budget <= settings.focus]
    return {budget: mean[(sparsity - budget).abs() < 1e-9].min().item() for budget in focus}


def _excess(
    profile: Profile,
    relax: Callable[[Tensor], Tensor],
    steps: int,
    seed: int,
    best: dict[float, float],
) -> float:
    space, posterior = profile.search_space, profile.posterior
    settings = Settings.model_validate(profile.provenance["settings"])
    scaling = Scaling(profile.record.ideal, profile.record.nadir)

    def objectives(scores: Tensor) -> Tensor:
        x = relax(scores)
        target = posterior.bound(x, settings.bound, settings.kappa)
        return scaling.scale(torch.stack([kept_share(space.params, x), quality_of(posterior, target, settings)], -1))

    generator = torch.Generator().manual_seed(seed)
    net = StratNet(len(profile.units), generator)
    train_stratnet(
        net,
        objectives,
        make_scalarization(settings.scalarization),
        steps=steps,
        preferences=settings.preferences,
        learning_rate=settings.learning_rate,
        generator=generator,
    )
    with torch.no_grad():
        scores = net(preference_grid(128))
        found = [posterior.log_predict(space.project(scores, b))[0].min().item() - low for b, low in best.items()]
    return statistics.mean(found)


if __name__ == "__main__":
    main()
