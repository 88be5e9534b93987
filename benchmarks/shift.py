r"""How well the divergence of an unconfirmed answer is predicted: one shift for all budgets, or the budgets near it.

    python benchmarks/shift.py --profiles PROFILE… --output benchmarks/results/shift.json

Each confirmed strategy of a profile between ``--least`` and ``--most`` sparsity is left out once; the others say how
confirmed divergences differ from what the ranking windows say. The error is that of the logarithm of the divergence.
No model is run.
"""

import argparse
import math
from pathlib import Path

import torch
from common import write_result
from torch import Tensor

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.search.contest import Contest
from unicuco_plugin.search.evidence import Evidence
from unicuco_plugin.search.shift import Shift


def main() -> None:
    """Leave one out, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", nargs="+", required=True)
    parser.add_argument("--least", type=float, default=0.1)
    parser.add_argument("--most", type=float, default=0.75)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    result = {}
    for name in args.profiles:
        sparsity, difference = _differences(load_profile(name))
        global_, near = [], []
        for index, at in enumerate(sparsity.tolist()):
            if not args.least <= at <= args.most:
                continue
            others = torch.arange(len(sparsity)) != index
            global_.append(difference[index] - difference[others].mean())
            shift = Shift.of(sparsity[others].tolist(), difference[others].tolist())
            if shift is None:
                raise RuntimeError(f"{name} has too few confirmed strategies")
            near.append(difference[index] - shift.at(at)[0])
        result[name] = {"confirmed": len(near), "one_for_all": _size(global_), "budgets_near_it": _size(near)}
    print(result)
    write_result(args.output, {"error_of_the_logarithm": result})


def _differences(profile: Profile) -> tuple[Tensor, Tensor]:
    """Sparsity of the confirmed strategies, and their logarithms less what the ranking windows say."""
    record, space = profile.record, profile.search_space
    confirmed = {entry.strategy: entry.confirmed.mean for entry in record.archive if entry.confirmed is not None}
    archive = {entry.strategy: entry.reranked for entry in record.archive}
    contest = Contest(space, profile.net, profile.posterior, archive, Evidence(record.reranked_shift, record.noise))
    rows = torch.stack([space.parse(key) for key in confirmed])
    ranked = contest.predict(rows, "archive", list(confirmed))
    difference = [math.log(mean) - candidate.mean for mean, candidate in zip(confirmed.values(), ranked, strict=True)]
    return space.sparsity(rows), torch.tensor(difference, dtype=torch.float64)


def _size(errors: list[Tensor]) -> float:
    """Root mean square."""
    return round(torch.stack(errors).square().mean().sqrt().item(), 4)


if __name__ == "__main__":
    main()
