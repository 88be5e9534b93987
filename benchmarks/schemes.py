"""Six widths together against one by the toolkit's GPTQ, on the linears of one real block, in one run.

    python benchmarks/schemes.py --model MODEL --calibration a.txt --output benchmarks/results/schemes.json

Hessians come from real text through the dense model. For every linear the toolkit's observer and ``quantize_weight``
are timed at ``--one``, then our factor and sweep at all of ``--schemes``, and packing, from the same Hessian; the
median of ``--repeats`` rounds in turn, in processor seconds of one thread. ``shared`` counts a Hessian's factor once
for all linears that have that input, as a build does. Codes and losses of every scheme are compared with the toolkit's,
and its own codes with those at half its block size, which only rounds otherwise.

``--large`` adds linears of Llama-3-8B's sizes with random weights, and the seconds of a block: its operations (a factor
takes 4/3 C^3, a scheme R C^2) at the speed of the linear timed that has most of them.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import block_parser, gather_block, write_result
from compressed_tensors.quantization import ActivationOrdering
from compressed_tensors.quantization.lifecycle.forward import quantize
from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
from llmcompressor.observers import Observer
from torch import Tensor

from unicuco_plugin.levels.packed import predict_packed_bytes, write_packed
from unicuco_plugin.levels.scheme_sweep import Quantised, solve_schemes
from unicuco_plugin.levels.settings import resolve_schemes
from unicuco_plugin.levels.sweep import factor_hessian
from unicuco_plugin.levels.toolkit_scheme import as_toolkit
from unicuco_plugin.schemes import Scheme

BLOCK_SIZE, DAMPING = 128, 1e-2
# Llama-3-8B's block: rows, columns, how many, and the Hessians that they share.
LARGE = {
    "q_proj": (4096, 4096, 2),
    "k_proj": (1024, 4096, 2),
    "gate_proj": (14336, 4096, 2),
    "down_proj": (4096, 14336, 1),
}
LARGE_FACTORS = (4096, 4096, 4096, 14336)


def main() -> None:
    """Gather, time both, compare, weigh."""
    parser = block_parser(__doc__)
    parser.add_argument("--schemes", nargs="+", default=["W2A16", "W3A16", "W4A16", "W5A16", "W6A16", "W8A16"])
    parser.add_argument("--one", default="W4A16", help="the toolkit's one scheme")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", nargs="*", default=[], choices=LARGE)
    args = parser.parse_args()
    hessians, linears = gather_block(args)
    result: dict[str, Any] = {"block": args.block, "tokens": args.windows * args.length, "schemes": args.schemes}
    rows = []
    for name, linear in linears.items():
        leader = hessians.leaders[name]
        W, H = linear.weight.detach(), hessians.sums[leader][0]
        row, solved = _measure(W, H, args, args.repeats)
        given = solve_schemes(W, factor_hessian(H, DAMPING), [made.scheme for made in solved], block_size=BLOCK_SIZE)
        row["by_scheme"] = {
            made.scheme.name: _compare(W, H, made, other) for made, other in zip(solved, given, strict=True)
        }
        rows.append({"linear": name, "leads": leader == name} | row)
        print(json.dumps(rows[-1]), flush=True)
    result |= _sum_up(rows) | {"linears": rows}
    if args.large:
        result["large"] = _large(args)
    print({name: value for name, value in result.items() if name != "linears"})
    write_result(args.output, result)


def _measure(
    W: Tensor, H: Tensor, args: argparse.Namespace, repeats: int
) -> tuple[dict[str, Any], Sequence[Quantised]]:
    """Seconds and bytes of one linear; and the linear in all schemes."""
    (rows, columns), dtype = W.shape, str(W.dtype).removeprefix("torch.")
    schemes = resolve_schemes(tuple(args.schemes), columns)
    [one] = resolve_schemes((args.one,), columns)
    times: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            _timed(times["toolkit"], _toolkit, W, H, one)
            factor = _timed(times["factor"], partial(factor_hessian, largest_first=True), H, DAMPING)
            solved = _timed(times["sweep"], partial(solve_schemes, block_size=BLOCK_SIZE), W, factor, schemes)
            entry = _timed(times["pack_and_write"], write_packed, Path(folder), "linear", solved)
    return {
        "rows": rows,
        "columns": columns,
        **{name: round(statistics.median(values), 5) for name, values in times.items()},
        "bytes": entry.bytes,
        "predicted_bytes": predict_packed_bytes({"linear": (rows, columns)}, tuple(args.schemes), dtype),
        "packed_bytes": sum(scheme.stored_bytes(rows, columns, W.itemsize) for scheme in schemes),
    }, solved


def _compare(W: Tensor, H: Tensor, made: Quantised, given: Quantised) -> dict[str, Any]:
    codes, loss = _toolkit(W, H, made.scheme)
    again, _ = _toolkit(W, H, made.scheme, block_size=BLOCK_SIZE // 2)
    return {
        "codes_that_differ": (made.codes.float() != codes.float()).double().mean().item(),
        "codes_that_differ_in_the_toolkit_itself": (codes != again).double().mean().item(),
        "loss": loss,
        "loss_difference": abs(made.loss.item() / loss - 1),
        "loss_without_order": given.loss.item(),
    }


def _toolkit(W: Tensor, H: Tensor, scheme: Scheme, *, block_size: int = BLOCK_SIZE) -> tuple[Tensor, float]:
    """What ``GPTQModifier`` does to a module once it has its Hessian: codes and loss."""
    arguments = as_toolkit(scheme).weights.model_copy(update={"actorder": ActivationOrdering.STATIC})
    observer = Observer.load_from_registry("memoryless_minmax", base_name="weight", args=arguments)
    observer(W)
    found = observer.get_qparams()
    weight, losses, _ = quantize_weight(
        weights=W.float()[None].clone(),
        hessians=H[None].clone(),
        scale=found["scale"][None],
        zero_point=found["zero_point"][None],
        global_scale=found["global_scale"],
        quant_args=arguments,
        blocksize=block_size,
        percdamp=DAMPING,
    )
    scale, zero_point = found["scale"].float(), found["zero_point"].float()
    return quantize(weight[0], scale, zero_point, arguments, global_scale=found["global_scale"]), losses.item()


def _sum_up(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    seconds = {name: sum(row[name] for row in rows) for name in ("toolkit", "factor", "sweep", "pack_and_write")}
    shared = sum(row["factor"] for row in rows if row["leads"])
    found = [scheme for row in rows for scheme in row["by_scheme"].values()]
    differ, losses = [scheme["codes_that_differ"] for scheme in found], [scheme["loss"] for scheme in found]
    return {
        "seconds": {name: round(value, 4) for name, value in seconds.items()} | {"shared_factors": round(shared, 4)},
        "ratio": round((seconds["factor"] + seconds["sweep"]) / seconds["toolkit"], 3),
        "ratio_shared": round((shared + seconds["sweep"]) / seconds["toolkit"], 3),
        "ratio_with_files": round((shared + seconds["sweep"] + seconds["pack_and_write"]) / seconds["toolkit"], 3),
        "bytes_of_packed_levels": round(
            sum(row["bytes"] for row in rows) / sum(row["packed_bytes"] for row in rows), 4
        ),
        "bytes_predicted_exactly": all(row["bytes"] == row["predicted_bytes"] for row in rows),
        "worst_codes_that_differ": max(differ),
        "mean_codes_that_differ": statistics.mean(differ),
        "mean_in_the_toolkit_itself": statistics.mean(row["codes_that_differ_in_the_toolkit_itself"] for row in found),
        "worst_loss_difference": max(scheme["loss_difference"] for scheme in found),
        "loss_of_order": round(
            statistics.geometric_mean(scheme["loss"] / scheme["loss_without_order"] for scheme in found), 4
        ),
        "losses_lower_with_order": sum(scheme["loss"] < scheme["loss_without_order"] for scheme in found) / len(losses),
    }


def _large(args: argparse.Namespace) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    timed: dict[str, dict[str, Any]] = {}
    for name in args.large:
        rows, columns, _ = LARGE[name]
        W = (torch.randn(rows, columns, generator=generator) * 0.02).bfloat16()
        inputs = torch.randn(columns, columns, generator=generator)
        row, _ = _measure(W, inputs.t() @ inputs / columns, args, 1)
        row["ratio"] = round((row["factor"] + row["sweep"]) / row["toolkit"], 3)
        timed[name] = row
        print(name, json.dumps(row), flush=True)
    largest = max(timed.values(), key=lambda row: row["rows"] * row["columns"] ** 2)
    speeds = {
        "factors": 4 / 3 * largest["columns"] ** 3 / largest["factor"],
        "sweeps": largest["rows"] * largest["columns"] ** 2 / largest["sweep"],
        "files": largest["rows"] * largest["columns"] / largest["pack_and_write"],
    }
    shapes = [shape for *shape, count in LARGE.values() for _ in range(count)]
    work = {
        "factors": sum(4 / 3 * columns**3 for columns in LARGE_FACTORS),
        "sweeps": sum(rows * columns**2 for rows, columns in shapes),
        "files": sum(rows * columns for rows, columns in shapes),
    }
    seconds = {name: round(work[name] / speeds[name], 1) for name in work}
    named = {f"model.layers.0.{n}": (rows, columns) for n, (rows, columns) in enumerate(shapes)}
    return {
        "timed": timed,
        "block": {
            "weights": work["files"],
            "bytes": predict_packed_bytes(named, tuple(args.schemes), "bfloat16"),
            "dense_bytes": 2 * work["files"],
            "seconds": seconds | {"all": round(sum(seconds.values()), 1)},
        },
    }


def _timed(times: list[float], function: Callable[..., Any], *args: Any) -> Any:
    """Run, and note the processor's seconds: other jobs do not count."""
    started = time.process_time()
    value = function(*args)
    times.append(time.process_time() - started)
    return value


if __name__ == "__main__":
    main()
