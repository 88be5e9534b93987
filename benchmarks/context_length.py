r"""How the length of a window changes which blocks are best to drop: answers of a benchmark on one text, cut anew.

    unicuco benchmark benchmarks/peers_depth.yaml --output runs/peers-depth
    python benchmarks/context_length.py --model MODEL --answers runs/peers-depth/results.json

Every answer of ``--methods`` is measured on the same tokens of the calibration text, in windows of each length.
Training ranks on windows of 256 tokens, peers calibrate and everybody is evaluated on windows of 512.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from common import ROOT, SHARED, decoder_of, write_result

from unicuco_plugin.evaluation.comparison import Estimate
from unicuco_plugin.models.loading import load_tokenizer
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.texts.calibration import load_windows

SOURCES = ("calib_wikipedia.txt", "calib_webtext.txt")
LONGEST = 512


def main() -> None:
    """Measure every distinct set of blocks at every length."""
    args = _arguments()
    source = json.loads(args.answers.read_text(encoding="utf8"))
    rows = [r for r in source["rows"] if r["method"] in args.methods and r["budget"] in args.budgets]
    decoder = decoder_of(args.model)
    sets = {
        name: sorted(decoder.block_names.index(unit) for unit in row["units"]) for row in rows for name in [_name(row)]
    }
    texts = [str(SHARED / "data/text" / name) for name in SOURCES]
    windows = load_windows(texts, load_tokenizer(args.model), count=args.windows, length=LONGEST, seed=args.seed)
    result: dict[str, Any] = {"tokens": windows.numel(), "seed": args.seed, "dropped": sets, "rows": []}
    base = {
        budget: next(_name(r) for r in rows if r["method"] == args.base and r["budget"] == budget)
        for budget in args.budgets
    }
    for length in args.lengths:
        cut = windows.reshape(-1, length)
        evaluator = BlockEvaluator(decoder, cut, batch_windows=max(1, 16 * LONGEST // length))
        distinct = list({tuple(drop) for drop in sets.values()})
        found = dict(zip(distinct, evaluator.evaluate([list(drop) for drop in distinct]), strict=True))
        for row in rows:
            name = _name(row)
            own, other = (found[tuple(sets[n])] for n in (name, base[row["budget"]]))
            change = Estimate.of([a - b for a, b in zip(own.per_window, other.per_window, strict=True)])
            result["rows"].append(
                {
                    "length": length,
                    "method": row["method"],
                    "seed": row["seed"],
                    "budget": row["budget"],
                    "divergence": round(own.value, 4),
                    "ratio": round(own.value / other.value, 4),
                    "standard_error": round(change.standard_error / other.value, 4),
                }
            )
            print(result["rows"][-1], flush=True)
    result["ratio"] = f"to {args.base}"
    write_result(args.output, result)


def _name(row: dict[str, Any]) -> str:
    return f"{row['method']} {row['seed']} {row['budget']:g}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--answers", type=Path, required=True, help="results.json of unicuco benchmark")
    parser.add_argument("--methods", nargs="+", default=["unicuco", "greedy", "shortgpt"])
    parser.add_argument("--base", default="greedy", help="the method that ratios are to")
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.25, 0.36])
    parser.add_argument("--lengths", nargs="+", type=int, default=[32, 64, 128, 256, 512])
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/context-length.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
