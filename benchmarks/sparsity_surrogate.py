r"""How well a sparsity profile's surrogate ranks strategies it never saw, within one budget.

    python benchmarks/sparsity_surrogate.py --model MODEL --levels DIR --profile PROFILE [--profile …] \
        --calibration FILE… --output benchmarks/results/sparsity-surrogate.json

Sixty strategies within one per cent of ``--budget``: half have independent normal scores of deviation one half around
uniform, half the same around the profile's answer. They are measured stitched, on windows drawn with another seed than
training's; how the two halves of these rank alike says what a perfect surrogate could reach. Beside the surrogate stand
its additive prior alone, the plain share of damage that the level database
knows of (the sum of its reconstruction losses), and other surrogates of the same measurements: without the prior, and
with a length scale for every unit instead of every block and kind of module.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from common import HALF, decoder_of, draw_around, rank_correlation, write_result
from torch import Tensor

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.levels.exchange import Stitching
from unicuco_plugin.levels.realise import choose_rows
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.loading import load_tokenizer
from unicuco_plugin.objectives.levelled import LevelEvaluator
from unicuco_plugin.policy.posterior import Z90
from unicuco_plugin.request import Request
from unicuco_plugin.search.surrogate import fit_surrogate
from unicuco_plugin.spaces.plan import plan_counts
from unicuco_plugin.texts.calibration import load_windows


def main() -> None:
    """Draw, measure, predict, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", action="append", required=True)
    parser.add_argument("--levels", type=Path, required=True)
    parser.add_argument("--calibration", nargs="+", required=True)
    parser.add_argument("--budget", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    levels = Levels.open(args.levels)
    windows = load_windows(
        args.calibration, load_tokenizer(args.model), count=args.tokens // 512, length=512, seed=args.seed
    )
    evaluator = LevelEvaluator(Stitching(decoder_of(args.model), levels), windows)
    result: dict[str, Any] = {"budget": args.budget, "seed": args.seed, "tokens": args.tokens, "profiles": {}}
    for name in args.profile:
        profile = load_profile(name)
        X = draw_around(
            profile, Request.of(sparsity=args.budget), args.budget, torch.Generator().manual_seed(args.seed)
        )
        plans = [plan_counts(profile.search_space.to_units(row), levels.sizes) for row in X]
        found = [evaluator.evaluate([plan])[0].per_window for plan in plans]
        windows_of = torch.tensor(found, dtype=torch.float64)
        result["profiles"][name] = _compare(profile, X, windows_of, [_losses(levels, plan) for plan in plans])
        print(name, {k: v for k, v in result["profiles"][name].items() if k != "strategies"}, flush=True)
    write_result(args.output, result)


def _losses(levels: Levels, plan: dict[str, int]) -> float:
    total = 0.0
    for name, count in plan.items():
        linear = levels.linear(name)
        mixture = choose_rows(linear.zeros, linear.losses, count)
        upper = torch.where(mixture.upper, linear.losses[min(mixture.lower + 1, len(linear.losses) - 1)], 0.0)
        total += (upper + torch.where(mixture.upper, 0.0, linear.losses[mixture.lower])).sum().item()
    return total


def _others(profile: Profile, X: Tensor, measured: Tensor) -> dict[str, float]:
    """Rank correlations of surrogates fitted anew to what the profile's was fitted to."""
    known = profile.posterior
    y = (known.shift + known.scale * known.t).exp()
    units = torch.eye(len(profile.units), dtype=torch.float64)
    found = {}
    for name, G, prior in (
        ("groups_with_prior", known.G, known.prior),
        ("groups_without_prior", known.G, None),
        ("units_with_prior", units, known.prior),
        ("units_without_prior", units, None),
    ):
        fitted = fit_surrogate(known.X, y, G, target="log", prior=prior).posterior
        with torch.no_grad():
            found[name] = rank_correlation(fitted.mean(X), measured)
    return found


def _compare(profile: Profile, X: Tensor, per_window: Tensor, losses: list[float]) -> dict[str, Any]:
    measured, halves = per_window.mean(1), [part.mean(1) for part in per_window.chunk(2, 1)]
    with torch.no_grad():
        mean, std = profile.posterior.log_predict(X)
        prior = profile.posterior.prior(X) if profile.posterior.prior is not None else mean
    centre = mean + profile.record.shift
    half = Z90 * (std**2 + profile.record.shift_std**2).sqrt()
    return {
        "units": len(profile.units),
        "spearman": rank_correlation(mean, measured),
        "spearman_around_uniform": rank_correlation(mean[:HALF], measured[:HALF]),
        "spearman_around_answer": rank_correlation(mean[HALF:], measured[HALF:]),
        "spearman_of_one_half_of_the_test_windows_with_the_other": rank_correlation(*halves),
        "spearman_of_prior_alone": rank_correlation(prior, measured),
        "spearman_of_reconstruction_losses": rank_correlation(torch.tensor(losses), measured),
        "spearman_of_others": _others(profile, X, measured),
        "coverage_of_90_percent_interval": round(float(((measured.log() - centre).abs() <= half).double().mean()), 4),
        "strategies": [
            {"predicted": round(p, 4), "measured": round(m, 4)}
            for p, m in zip(centre.exp().tolist(), measured.tolist(), strict=True)
        ],
    }


if __name__ == "__main__":
    main()
