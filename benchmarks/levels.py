"""Eight levels together against one level by the toolkit, on the linears of one real block, in one run.

    python benchmarks/levels.py --model MODEL --calibration a.txt --output benchmarks/results/levels.json

Hessians come from real text through the dense model. For every linear the toolkit's ``sparsify_weight`` is timed at
``--sparsity``, then our factor and sweep at the whole ladder, from the same Hessian; the median of ``--repeats`` rounds
in turn. ``shared`` counts a Hessian's factor once for all linears that have that input, as a build does.

The floor is the ratio of operations, as if both ran at one speed: a factor takes 4/3 C^3 (Cholesky 1/3, inverse 2/3,
Cholesky 1/3) and a level R C^2 (each of C columns updates those after it: R C^2 / 2 multiplications and additions).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import block_parser, gather_block, write_result
from llmcompressor.modifiers.pruning.sparsegpt.sgpt_sparsify import sparsify_weight
from torch import Tensor, nn

from unicuco_plugin.levels.linear import write_linear
from unicuco_plugin.levels.settings import LADDER
from unicuco_plugin.levels.sweep import Factor, Solved, factor_hessian, solve_levels

BLOCK_SIZE, DAMPING = 128, 1e-2


def main() -> None:
    """Gather, time both, compare, weigh."""
    parser = block_parser(__doc__)
    parser.add_argument("--sparsity", type=float, default=0.5, help="the toolkit's one level")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    hessians, linears = gather_block(args, args.device)
    rows: list[dict[str, Any]] = []
    seconds = {"one_level": 0.0, "factors": 0.0, "shared_factors": 0.0, "sweeps": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        for name, linear in linears.items():
            leader = hessians.leaders[name]
            row, solved = _measure(linear, hessians.sums[leader][0], args)
            row = {"linear": name, "rows": linear.out_features, "columns": linear.in_features, **row}
            row["bytes"] = write_linear(Path(folder), name, linear.weight.detach(), solved).bytes
            rows.append(row)
            seconds["one_level"] += row["one_level"]
            seconds["factors"] += row["factor"]
            seconds["shared_factors"] += row["factor"] if leader == name else 0.0
            seconds["sweeps"] += row["sweep"]
            print(row)
    factors = sum(4 / 3 * row["columns"] ** 3 for row in rows)
    level = sum(row["rows"] * row["columns"] ** 2 for row in rows)
    dense = sum(linear.weight.nbytes for linear in linears.values()) * len(LADDER)
    result = {
        "block": args.block,
        "tokens": args.windows * args.length,
        "ladder": LADDER,
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "ratio": round((seconds["factors"] + seconds["sweeps"]) / seconds["one_level"], 3),
        "ratio_shared": round((seconds["shared_factors"] + seconds["sweeps"]) / seconds["one_level"], 3),
        "floor": round((factors + len(LADDER) * level) / (factors + level), 3),
        "gigaflops_per_second": {
            "toolkit": round((factors + level) / seconds["one_level"] / 1e9, 1),
            "ours": round((factors + len(LADDER) * level) / (seconds["factors"] + seconds["sweeps"]) / 1e9, 1),
        },
        "bytes_of_dense_levels": round(sum(row["bytes"] for row in rows) / dense, 4),
        "worst_mask_disagreement": max(row["mask_disagreement"] for row in rows),
        "worst_loss_difference": max(row["loss_difference"] for row in rows),
        "linears": rows,
    }
    result["distance_from_floor"] = round(result["ratio"] / result["floor"], 3)
    print({name: value for name, value in result.items() if name != "linears"})
    write_result(args.output, result)


def _measure(linear: nn.Linear, H: Tensor, args: argparse.Namespace) -> tuple[dict[str, Any], Solved]:
    """Seconds of both in turn, and how far all levels are from the toolkit's."""

    def toolkit(sparsity: float) -> tuple[float, Tensor]:
        pair: tuple[float, Tensor] = sparsify_weight(
            linear, {linear: copies.pop()}, sparsity, 0, 0, BLOCK_SIZE, DAMPING, False
        )
        return pair

    times: dict[str, list[float]] = {"one_level": [], "factor": [], "sweep": []}
    copies = [H.clone()]
    for repeat in range(args.repeats + 1):
        copies = [H.clone()]
        first, _ = _timed(lambda: toolkit(args.sparsity), args.device)
        second, factor = _timed(lambda: factor_hessian(H, DAMPING), args.device)
        third, solved = _timed(partial(_sweep, linear, factor), args.device)
        if repeat:  # the first warms up
            for taken, seconds in zip(times.values(), (first, second, third), strict=True):
                taken.append(seconds)
    apart, losses = [], []
    for level, sparsity in enumerate(LADDER):
        copies = [H.clone()]
        loss, weight = toolkit(sparsity)
        apart.append(((weight == 0) != (solved.weights[level] == 0)).double().mean().item())
        losses.append(abs(solved.losses[level].double().sum().item() / loss - 1))
    row: dict[str, Any] = {name: round(statistics.median(values), 5) for name, values in times.items()}
    return row | {"mask_disagreement": max(apart), "loss_difference": max(losses)}, solved


def _sweep(linear: nn.Linear, factor: Factor) -> Solved:
    return solve_levels(linear.weight.detach(), factor, LADDER, block_size=BLOCK_SIZE)


def _timed(function: Callable[[], Any], device: str) -> tuple[float, Any]:
    def now() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    started = now()
    value = function()
    return now() - started, value


if __name__ == "__main__":
    main()
