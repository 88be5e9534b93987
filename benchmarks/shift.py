r"""How well the divergence of an unconfirmed answer is predicted: one shift for all budgets, or the budgets near it.

    python benchmarks/shift.py --profiles PROFILE… --output benchmarks/results/shift.json

Each confirmed strategy of a profile between ``--least`` and ``--most`` sparsity is left out once; the others say how
confirmed divergences differ from what the ranking windows say. The error is that of the logarithm of the divergence.
No model is run.
"""

import argparse
from pathlib import Path

import torch
from common import write_result
from torch import Tensor

from unicuco_plugin.answering import load_profile
from unicuco_plugin.policy.shift import Shift


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
        known = load_profile(name).divergences.shift
        if known is None:
            raise RuntimeError(f"{name} has too few confirmed strategies")
        sparsity, difference = known.sparsity, known.difference
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


def _size(errors: list[Tensor]) -> float:
    """Root mean square."""
    return round(torch.stack(errors).square().mean().sqrt().item(), 4)


if __name__ == "__main__":
    main()
