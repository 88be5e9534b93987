r"""Two choices of the level database: what its inputs carry, and how a share between two levels is made.

    python benchmarks/level_choices.py --model MODEL --calibration FILE… --output benchmarks/results/level-choices.json

Inputs: for every seed a database from the dense model's inputs and one from inputs that carry an average pruning error,
same windows. Uniform sparsity at ``--budgets`` is stitched from each; its divergence is measured on the reference's
windows of texts that nothing was calibrated on.

Mixtures: databases of the first seed with the levels 0.5, 0.6, 0.7 and with 0.55, 0.65, same windows and dense inputs.
Uniform 0.55 and 0.65 are made of the first by the rows that cost least (what we do) and by rows at random, and stand
beside the second's own levels, which SparseGPT solved at exactly these shares.

Killed, the same command goes on with the seed it was in.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import TEXTS, decoder_of, reference_windows, write_result
from torch import Tensor

from unicuco_plugin.evaluation.comparison import compare_models
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.linear import LinearLevels
from unicuco_plugin.levels.realise import realise
from unicuco_plugin.levels.settings import Inputs, LevelSettings
from unicuco_plugin.levels.stitch import swapped
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.texts.calibration import load_windows

Change = Callable[[LinearLevels], LinearLevels]
LADDER, BETWEEN = (0.5, 0.6, 0.7), (0.55, 0.65)


def main() -> None:
    """Build, stitch, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", nargs="+", required=True)
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5, 0.6, 0.7])
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    bench = _Bench(args)
    result: dict[str, Any] = {"windows": args.windows, "inputs": _measured_before(args), "mixtures": {}}
    for seed in args.seeds:
        if str(seed) in result["inputs"]:
            continue
        found = {kind: bench.inputs(seed, kind) for kind in ("dense", "pruned")}
        result["inputs"][str(seed)] = found
        print(seed, found, flush=True)
        write_result(args.output, result)
    result["mixtures"] = bench.mixtures(args.seeds[0])
    print(result["mixtures"])
    write_result(args.output, result)


def _measured_before(args: argparse.Namespace) -> dict[str, Any]:
    """Seeds that an earlier run finished into the same file, of as many windows."""
    if not args.output.exists():
        return {}
    record = json.loads(args.output.read_text(encoding="utf8"))
    return dict(record["inputs"]) if record["windows"] == args.windows else {}


class _Bench:
    """Builds databases and measures uniform sparsity on them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.decoder = decoder_of(args.model)
        self.dense = load_model(args.model, dtype="bfloat16")
        self.texts = {text: reference_windows(args.model, text) for text in TEXTS}

    def inputs(self, seed: int, kind: Inputs) -> dict[str, Any]:
        """Uniform sparsity by budget, on a database of one kind."""
        with tempfile.TemporaryDirectory() as folder:
            levels = self._build(Path(folder) / "levels", seed, inputs=kind)
            found = {str(budget): self._measure(levels, budget) for budget in self.args.budgets}
            return found | {"build_seconds": round(levels.record.seconds, 1)}

    def mixtures(self, seed: int) -> dict[str, Any]:
        """Uniform sparsity between levels, by the way it is made."""
        generator = torch.Generator().manual_seed(seed)

        def shuffled(linear: LinearLevels) -> LinearLevels:
            losses = torch.rand(linear.losses.shape, generator=generator, dtype=torch.float64).cumsum(0)
            return replace(linear, losses=losses)

        with tempfile.TemporaryDirectory() as folder:
            coarse = self._build(Path(folder) / "coarse", seed, sparsities=LADDER, inputs="dense")
            exact = self._build(Path(folder) / "exact", seed, sparsities=BETWEEN, inputs="dense")
            return {
                str(share): {
                    "cheapest_rows": self._measure(coarse, share),
                    "rows_at_random": self._measure(coarse, share, shuffled),
                    "own_level": self._measure(exact, share),
                }
                for share in BETWEEN
            }

    def _build(self, folder: Path, seed: int, **settings: Any) -> Levels:
        args = self.args
        windows = load_windows(args.calibration, load_tokenizer(args.model), count=args.windows, length=512, seed=seed)
        build_levels(self.decoder, windows, folder, name=args.model, settings=LevelSettings(**settings))
        return Levels.open(folder)

    def _measure(self, levels: Levels, share: float, change: Change = lambda linear: linear) -> dict[str, float]:
        linears = self.decoder.all_linears()

        def made(name: str) -> Tensor:
            dense = linears[name].weight.data
            return realise(change(levels.linear(name)), dense, round(share * dense.numel()))

        with swapped({name: linears[name] for name in levels.sizes}, {name: made(name) for name in levels.sizes}):
            found = {}
            for text, windows in self.texts.items():
                divergence = compare_models(self.dense, self.decoder.model, windows).divergence
                if divergence is None:
                    raise RuntimeError("two models were compared")
                found[text] = round(divergence.mean, 4)
            return found


if __name__ == "__main__":
    main()
