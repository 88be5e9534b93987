r"""How exactly a sparsity request is met: by the plan, by each of the toolkit's passes on every linear, and stitched.

    python benchmarks/sparsity_exactness.py --model MODEL --calibration FILE… --profile PROFILE --levels LEVELS \
        --output FILE

Plans: ``--requests`` random requests at each granularity, random scores shifted until their weighted mean is the
request; and as many random requests that the profile answers. Passes: one strategy with a random share in [0.2, 0.9]
for each linear, carried out by SparseGPT, by Wanda and from the level database through a recipe; zeros are counted in
the checkpoint on disk.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import decoder_of, write_result
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from torch import Tensor

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.modifiers.export.oneshot import prune
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.spaces.plan import plan_counts
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.texts.calibration import load_windows

ENGINES = {"sparsegpt": SparseGPTModifier, "wanda": WandaPruningModifier}


def main() -> None:
    """Measure plans and passes and write the largest errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", nargs="+", required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--levels", required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    decoder = decoder_of(args.model)
    blocks = range(len(decoder.blocks))
    sizes = {name: linear.weight.numel() for index in blocks for name, linear in decoder.linears(index).items()}
    plans = {kind: _plans(units, sizes, args.requests) for kind, units in _units(decoder, sizes).items()}
    plans["answered"] = _answered(load_profile(args.profile), sizes, args.requests)
    print(plans)
    windows = load_windows(args.calibration, load_tokenizer(args.model), count=args.windows, length=args.length, seed=0)
    passes = {engine: _pass(args, decoder, sizes, windows, engine) for engine in [*ENGINES, "stitched"]}
    write_result(args.output, {"requests": args.requests, "plans": plans, "windows": list(windows.shape), **passes})


def _units(decoder: Decoder, sizes: dict[str, int]) -> dict[str, list[str]]:
    halves = [half for index in range(len(decoder.blocks)) for half in decoder.sublayers(index).values()]
    return {"block": list(decoder.block_names), "sublayer": halves, "linear": list(sizes)}


def _plans(units: list[str], sizes: dict[str, int], requests: int) -> dict[str, float]:
    chance = torch.Generator().manual_seed(0)
    weights = torch.tensor([sum(n for name, n in sizes.items() if f"{name}.".startswith(f"{u}.")) for u in units])
    weights, total, worst, furthest = weights.double(), sum(sizes.values()), 0.0, 0.0
    for _ in range(requests):
        request = 0.02 + 0.96 * torch.rand((), generator=chance).item()
        scores = 2.0 * torch.randn(len(units), generator=chance, dtype=torch.float64)
        low, high = -50.0, 50.0
        for _ in range(200):
            middle = (low + high) / 2
            over = ((scores + middle).sigmoid() * weights).sum() / weights.sum() > request
            low, high = (low, middle) if over else (middle, high)
        shares = dict(zip(units, (scores + low).sigmoid().tolist(), strict=True))
        counts = plan_counts(shares, sizes)
        worst = max(worst, abs(sum(counts.values()) / total - request))
        furthest = max(furthest, *(abs(counts[n] - _share(shares, n) * sizes[n]) for n in sizes))
    return {"units": len(units), "largest_error_of_the_sum": worst, "largest_error_of_a_linear_in_weights": furthest}


def _answered(profile: Profile, sizes: dict[str, int], requests: int) -> dict[str, float]:
    chance = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(requests):
        request = 0.02 + 0.86 * torch.rand((), generator=chance).item()
        counts = plan_counts(profile.answer(sparsity=request).shares, sizes)
        worst = max(worst, abs(sum(counts.values()) / sum(sizes.values()) - request))
    return {"units": len(profile.units), "largest_error_of_the_sum": worst}


def _share(shares: dict[str, float], name: str) -> float:
    return next(share for unit, share in shares.items() if f"{name}.".startswith(f"{unit}."))


def _pass(
    args: argparse.Namespace, decoder: Decoder, sizes: dict[str, int], windows: Tensor, engine: str
) -> dict[str, Any]:
    chance = random.Random(0)  # noqa: S311 - no secret
    units = {name: chance.uniform(0.2, 0.9) for name in sizes}
    plan = plan_counts(units, sizes)
    strategy = Strategy.from_dict(
        {
            "schema": 1,
            "space": "sparsity",
            "model": {"name": args.model, "fingerprint": str(fingerprint(decoder.model))},
            "request": {"sparsity": 0.5},
            "sparsity": sum(plan.values()) / sum(sizes.values()),
            "params": 1,
            "bytes": 1,
            "source": "archive",
            "divergence": {"mean": 0.0, "interval90": [0.0, 0.0], "measured": False},
            "units": units,
        }
    )
    if engine == "stitched":
        recipe = [SparsityProfileModifier(strategy=strategy, levels=args.levels)]
    else:
        recipe = [SparsityProfileModifier(strategy=strategy), ENGINES[engine](sparsity=0.5, ignore=["re:.*lm_head"])]
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        text = None if engine == "stitched" else windows
        done = prune(args.model, recipe, Path(place) / "out", calibration=text)
        seconds = time.perf_counter() - started
        pruned = load_model(done.path)
    weights = {name: pruned.get_submodule(name).weight for name in plan}
    errors = {name: abs(int((w == 0).sum()) - plan[name]) / sizes[name] for name, w in weights.items()}
    total = sum(int((w == 0).sum()) for w in weights.values()) - sum(plan.values())
    worst = max(errors, key=lambda name: errors[name])
    result = {
        "linears": len(plan),
        "largest_error": errors[worst],
        "of": worst,
        "largest_error_in_columns": max(errors[name] * weights[name].shape[1] for name in errors),
        "error_of_the_sum": total / sum(sizes.values()),
        "seconds": round(seconds, 1),
    }
    print(engine, result)
    return result


if __name__ == "__main__":
    main()
