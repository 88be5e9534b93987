"""How well a profile's surrogate predicts strategies it never saw.

    python benchmarks/surrogate.py --model MODEL --profile PROFILE --calibration FILE… --output FILE

For each seed sixty strategies of mixed budgets up to the profile's ``focus``, where a search measures, and sixty at
one budget; for the first seed also sixty over all budgets there are, destroyed models (above log V = 10.8 nats, worse
than guessing) included. Half of each are uniformly random sets, half StratNet's proposals (its own for random
preferences; at one budget its scores with Gumbel noise, since it proposes few distinct sets there), none in the
archive; where StratNet has too few new ones, random swaps of them join. They are measured on full-fidelity windows
drawn with another seed than training's, and predicted as an answer would: by the surrogate, shifted by what
confirming showed.

Beside it stand the number of blocks, and the sum of the single blocks' divergences twice: as training measured them,
which is what anybody could predict from at that point, and measured on the very windows of the test, which knows their
noise and costs another run.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from common import decoder_of, write_result
from scipy.stats import spearmanr
from torch import Tensor

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.models.loading import load_tokenizer
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.policy.stratnet import sample_preferences
from unicuco_plugin.texts.calibration import load_windows

HALF = 30
ONE_BUDGET = 8
_GROUPS = ("mixed", "one_budget")


def main() -> None:
    """Draw, measure, predict, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--calibration", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2026, 2027, 2028])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    profile = load_profile(args.profile)
    tokenizer, decoder = load_tokenizer(args.model), decoder_of(args.model)
    result: dict[str, Any] = {
        "tokens": args.tokens,
        "profile_seed": profile.provenance["seed"],
        "focus": profile.provenance["settings"]["focus"],
        "target": profile.posterior.target,
        "seeds": {},
    }
    for seed in args.seeds:
        windows = load_windows(args.calibration, tokenizer, count=args.tokens // 512, length=512, seed=seed)
        found = _judge(profile, BlockEvaluator(decoder, windows), seed, everywhere=seed == args.seeds[0])
        result["seeds"][str(seed)] = found
        write_result(args.output, result)
    result["mean"] = {group: _mean([found[group] for found in result["seeds"].values()]) for group in _GROUPS}
    print(result["mean"])
    write_result(args.output, result)


def _judge(profile: Profile, evaluator: BlockEvaluator, seed: int, *, everywhere: bool) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    known = {
        frozenset(profile.search_space.to_units(profile.search_space.parse(entry.strategy))): entry
        for entry in profile.record.archive
    }
    groups = {
        "mixed": _mixed(profile, set(known), generator, profile.provenance["settings"]["focus"]),
        "one_budget": _one_budget(profile, set(known), generator),
    }
    if everywhere:
        groups["all_budgets"] = _mixed(profile, set(known), generator, 1.0)
    singles = torch.eye(len(profile.units), dtype=torch.float64)
    alone = {
        "summed_single_drops": torch.tensor([known[frozenset([u])].rank for u in profile.units], dtype=torch.float64),
        "single_drops_on_the_test_windows": torch.tensor(
            [e.value for e in _measure(evaluator, singles)], dtype=torch.float64
        ),
    }
    found = {}
    for name, rows in groups.items():
        measured = torch.tensor([e.value for e in _measure(evaluator, rows)], dtype=torch.float64)
        found[name] = _compare(profile, rows, measured, alone)
        print(seed, name, {key: value for key, value in found[name].items() if key != "strategies"}, flush=True)
    return found


def _mean(found: list[dict[str, Any]]) -> dict[str, float]:
    figures = [key for key, value in found[0].items() if isinstance(value, float)]
    return {key: round(sum(part[key] for part in found) / len(found), 4) for key in figures}


def _mixed(profile: Profile, known: set[frozenset[str]], generator: torch.Generator, most: float) -> Tensor:
    space = profile.search_space
    budgets = [budget for budget in space.budgets[1:] if budget <= most + 1e-9]
    drawn = torch.randint(len(budgets), (2 * HALF,), generator=generator).tolist()
    random = torch.cat([space.random(1, budgets[index], generator) for index in drawn])
    proposed = space.relax(profile.net(sample_preferences(4096, generator))).round().detach()
    proposed = proposed[torch.randperm(len(proposed), generator=generator)]
    proposed = proposed[space.sparsity(proposed) <= most + 1e-9]
    return torch.cat([_fresh(profile, random, known), _fresh(profile, proposed, known, generator)])


def _one_budget(profile: Profile, known: set[frozenset[str]], generator: torch.Generator) -> Tensor:
    space = profile.search_space
    budget = space.budgets[ONE_BUDGET - 1]
    scores = profile.net(sample_preferences(512, generator)).detach()
    gumbel = -(-torch.rand(scores.shape, generator=generator, dtype=torch.float64).log()).log()
    proposed = space.project(scores + gumbel, budget)
    return torch.cat(
        [_fresh(profile, space.random(2 * HALF, budget, generator), known), _fresh(profile, proposed, known, generator)]
    )


def _fresh(
    profile: Profile, rows: Tensor, known: set[frozenset[str]], generator: torch.Generator | None = None
) -> Tensor:
    """The first HALF distinct rows outside the archive; where there are too few, random swaps of them join."""
    space = profile.search_space
    found: dict[frozenset[str], Tensor] = {}
    for row in rows:
        name = frozenset(space.to_units(row))
        if name not in known and name not in found and 0 < len(name) < len(profile.units):
            found[name] = row
    while len(found) < HALF and generator is not None:
        row = rows[int(torch.randint(len(rows), (1,), generator=generator))]
        moves = space.neighbours(row[None])[0]
        swapped = moves[int(torch.randint(len(moves), (1,), generator=generator))]
        name = frozenset(space.to_units(swapped))
        if name not in known:
            found[name] = swapped
    return torch.stack(list(found.values())[:HALF])


def _measure(evaluator: BlockEvaluator, rows: Tensor) -> list[Any]:
    return [
        evaluation
        for part in rows.split(10)
        for evaluation in evaluator.evaluate([row.nonzero()[:, 0].tolist() for row in part])
    ]


def _compare(profile: Profile, rows: Tensor, measured: Tensor, alone: dict[str, Tensor]) -> dict[str, Any]:
    predicted = [profile.predict(row) for row in rows]
    inside = [
        p.interval90[0] <= value <= p.interval90[1] for p, value in zip(predicted, measured.tolist(), strict=True)
    ]
    means = [p.mean for p in predicted]
    return {
        "spearman": round(float(spearmanr(means, measured).statistic), 4),
        "spearman_from_count": _rank(rows.sum(-1), measured),
        **{f"spearman_from_{name}": _rank(rows @ values, measured) for name, values in alone.items()},
        "coverage_of_90_percent_interval": round(sum(inside) / len(inside), 4),
        "mean_absolute_log_error": round(
            float((torch.tensor(means, dtype=torch.float64).log() - measured.log()).abs().mean()), 4
        ),
        "strategies": [
            {
                "blocks": row.nonzero()[:, 0].tolist(),
                "from": "random" if index < HALF else "stratnet",
                "predicted": round(p.mean, 4),
                "interval90": [round(end, 4) for end in p.interval90],
                "measured": round(value, 4),
            }
            for index, (row, p, value) in enumerate(zip(rows, predicted, measured.tolist(), strict=True))
        ],
    }


def _rank(score: Tensor, measured: Tensor) -> float | None:
    if bool((score == score[0]).all()):
        return None  # a constant has no rank correlation: within one budget the count says nothing
    return round(float(spearmanr(score, measured).statistic), 4)


if __name__ == "__main__":
    main()
