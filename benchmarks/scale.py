r"""What a level database and sparsity training cost on random weights of a large model's block shapes.

    python benchmarks/scale.py --blocks 2 --output benchmarks/results/scale.json

The model is a Llama of ``--blocks`` blocks in Llama-3-8B's sizes (hidden 4 096, MLP 14 336, 32 heads, 8 of them for
keys), bfloat16, random weights of deviation 0.02, a vocabulary of ``--vocabulary`` (logits cost what they cost once,
whatever the depth). A database of the default ladder is built from ``--windows`` windows, then strategies are measured
stitched, and slopes once. Seconds and bytes of ``--target-blocks`` blocks are those of one block times so many; their
peak is the measured one and the weights of the blocks more. Random weights cost what real ones cost.

On one thread of the CPU seconds are the processor's, so that other jobs do not count.

Of the seconds of a block ``calibrating`` (Hessians) and ``carrying`` (its states at all levels, or none) grow with the
calibration tokens; ``factoring`` and ``solving``, which stores too, do not.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import write_result
from transformers import LlamaConfig, LlamaForCausalLM

from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.exchange import Stitching
from unicuco_plugin.levels.settings import Inputs, LevelSettings
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.objectives.levelled import LevelEvaluator
from unicuco_plugin.objectives.sensitivity import measure_slopes, uniform_plan
from unicuco_plugin.progress import Progress
from unicuco_plugin.spaces.plan import plan_counts


def main() -> None:
    """Build, measure, extrapolate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--target-blocks", type=int, nargs="+", default=[32, 80])
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--inputs", choices=["dense", "pruned"], default="dense")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    decoder = _model(args)
    windows = torch.randint(args.vocabulary, (args.windows, args.length), generator=torch.Generator().manual_seed(0))
    loaded = _peak(args.device)
    with tempfile.TemporaryDirectory() as folder:
        result = measure_levels(decoder, windows, Path(folder) / "levels", inputs=args.inputs, device=args.device)
    result["peak_mb_after_loading"] = loaded
    weights = sum(p.numel() for p in decoder.blocks[0].parameters())
    result |= {"blocks": args.blocks, "weights_of_a_block": weights, "calibration_tokens": windows.numel()}
    result["extrapolated"] = {str(count): _extrapolate(result, count) for count in args.target_blocks}
    print({key: value for key, value in result.items() if key != "linears"})
    write_result(args.output, result)


def _model(args: argparse.Namespace) -> Decoder:
    config = LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=args.blocks,
        num_attention_heads=32,
        num_key_value_heads=8,
        rope_theta=500000.0,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16).to(args.device).eval()
    return find_decoder(model)


def measure_levels(
    decoder: Decoder, windows: torch.Tensor, folder: Path, *, inputs: Inputs, device: str
) -> dict[str, Any]:
    """Seconds, bytes and memory of a database of the default ladder, and of candidates and slopes on it."""
    blocks, length = len(decoder.blocks), windows.shape[1]
    clock = time.process_time if torch.get_num_threads() == 1 and device == "cpu" else time.perf_counter
    marks: list[tuple[str, float]] = []

    def note(progress: Progress) -> None:
        marks.append((progress.stage, clock()))
        print(progress.stage, file=sys.stderr, flush=True)

    started = clock()
    build_levels(decoder, windows, folder, name="random", settings=LevelSettings(inputs=inputs), progress=note)
    seconds = clock() - started
    levels = Levels.open(folder)
    peak = _peak(device)
    linears = {
        stage.removeprefix("solved "): round(at - before, 2)
        for (_, before), (stage, at) in pairwise(marks)
        if stage.startswith("solved ")
    }
    spent: dict[str, float] = defaultdict(float)
    for (stage, before), (_, at) in pairwise(marks):
        spent[stage.split()[0]] += at - before
    evaluator = LevelEvaluator(Stitching(decoder, levels), windows[:2])
    plans = [plan_counts(dict.fromkeys(levels.sizes, share), levels.sizes) for share in (0.45, 0.55, 0.65)]
    evaluator.evaluate(plans[:1])  # the dense states, once for a whole search
    started = clock()
    evaluator.evaluate(plans[1:])
    candidate = (clock() - started) / 2
    started = clock()
    measure_slopes(BlockRunner(decoder, windows.shape[1]), levels, windows[:2], uniform_plan(levels, 4))
    slopes = clock() - started
    return {
        "clock": clock.__name__,
        "seconds_of_the_build": round(seconds, 1),
        "seconds_of_a_block": round(seconds / blocks, 1),
        "bytes_of_a_block": levels.bytes // blocks,
        "bytes_of_dense_levels": round(
            levels.bytes / (sum(levels.sizes.values()) * levels.weight_bytes * len(levels.sparsities)), 4
        ),
        "peak_mb_of_the_build": peak,
        "tokens_of_a_candidate": 2 * length,
        "seconds_of_a_candidate": round(candidate, 2),
        "seconds_of_slopes": round(slopes, 2),
        "peak_mb_in_all": _peak(device),
        "seconds_of_a_block_by_stage": {stage: round(seconds / blocks, 1) for stage, seconds in sorted(spent.items())},
        "linears": linears,
    }


def _extrapolate(result: dict[str, Any], count: int) -> dict[str, Any]:
    scale = count / result["blocks"]
    more = 2 * result["weights_of_a_block"] * (count - result["blocks"])
    return {
        "hours_of_the_build": round(result["seconds_of_a_block"] * count / 3600, 2),
        "gb_on_disk": round(result["bytes_of_a_block"] * count / 1e9, 1),
        "gb_of_dense_blocks": round(2 * result["weights_of_a_block"] * count / 1e9, 1),
        "gb_at_the_peak_of_the_build": round((result["peak_mb_of_the_build"] * 2**20 + more) / 1e9, 1),
        "seconds_of_a_candidate": round(result["seconds_of_a_candidate"] * scale, 1),
        "seconds_of_slopes": round(result["seconds_of_slopes"] * scale, 1),
    }


def _peak(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
