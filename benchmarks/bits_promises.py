r"""What a profile of bits promises, held against what is measured: bytes, divergences, intervals, milliseconds.

    python benchmarks/bits_promises.py --model MODEL --profile PROFILE --levels DIR --calibration FILE... \
        --output benchmarks/results/bits-promises.json

*Exports*: ten requests for bits, drawn at random between the floor and eight, are carried out from the level database;
bytes promised are held against those of the weight file and of its tensors, and the divergence that the search's
evaluator gives against that of the exported checkpoint, decoded by Transformers, on the same windows.
*Seconds* of the exports are split: the checkpoint (model loaded, filled, packed, written, flushed to disk), and what
judges it then, our comparison, Transformers and the rules of vLLM.
*Answers*: 64 different requests at once.
*Intervals*: sixty answers that were never measured, at budgets drawn at random in the same range, measured on windows
drawn with another seed than training's. *Ranks*: sixty fresh strategies, thirty around uniform and thirty around the
answer, within one per cent of one budget, on the same windows.
"""

import argparse
import json
import math
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from common import draw_around, rank_correlation, write_result
from torch import Tensor, nn

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.evaluation.comparison import compare_models
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.checkpoints.checkpoint import check_checkpoint
from unicuco_plugin.models.checkpoints.verdict import check_verdict
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.modifiers.export.oneshot import prune
from unicuco_plugin.modifiers.export.served import check_served
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.request import Request
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.texts.calibration import load_windows

EXPORTS, RUNS, FRESH = 10, 20, 60
MOST_DRAWS = 5_000
MOST_BITS = 8.0
SAVING = "unicuco_plugin.modifiers.export.saving"


def main() -> None:
    """Measure all four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--levels", type=Path, required=True)
    parser.add_argument("--calibration", nargs="+", required=True)
    parser.add_argument("--bits", type=float, default=3.75, help="budget of the strategies that are ranked")
    parser.add_argument("--tokens", type=int, default=4096, help="of the fresh strategies")
    parser.add_argument("--tokens-of-exports", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    profile = load_profile(args.profile)
    windows = load_windows(
        args.calibration, load_tokenizer(args.model), count=args.tokens // 512, length=512, seed=args.seed
    )
    levels = SchemeLevels.open(args.levels)
    decoder = find_decoder(load_model(args.model, dtype="float32"))
    evaluator = UnitsEvaluator(decoder, profile.space, windows, levels=levels)
    few = windows[: args.tokens_of_exports // 512]
    result: dict[str, Any] = {"seed": args.seed, "tokens": args.tokens, "answers": time_answers(args.profile)}
    print(result, flush=True)
    result["intervals"] = compare_intervals(profile, evaluator, args.seed)
    print({key: value for key, value in result["intervals"].items() if key != "answers"}, flush=True)
    result["ranks"] = compare_ranks(profile, evaluator, args.bits, args.seed)
    print(result["ranks"], flush=True)
    own = UnitsEvaluator(decoder, profile.space, few, levels=levels)
    result["exports"] = carry_out(profile, own, partial(divergence, decoder.model, few), args)
    write_result(args.output, result)


def time_answers(name: str) -> dict[str, Any]:
    """Milliseconds of 64 answers from a profile just loaded."""
    requests = [Request.of(bits=round(3.0 + 6.0 * i / 31, 4)) for i in range(32)]
    requests += [Request.of(max_bytes=int(1e6 * (105 + 5 * i))) for i in range(16)]
    requests += [Request.of(max_divergence=round(0.02 * 1.4**i, 4)) for i in range(12)]
    requests += [Request.of(preference=(x, 1 - x)) for x in (0.2, 0.4, 0.6, 0.8)]
    load_profile(name).answer_many(requests)  # imports and allocators warm, as in any second call
    times = []
    for _ in range(RUNS):
        profile = load_profile(name)
        began = time.perf_counter()
        profile.answer_many(requests)
        times.append(1000.0 * (time.perf_counter() - began))
    return {
        "requests": len(requests),
        "milliseconds": {"median": round(statistics.median(times), 1), "least": round(min(times), 1)},
        "runs": RUNS,
    }


def compare_intervals(profile: Profile, evaluator: UnitsEvaluator, seed: int) -> dict[str, Any]:
    """How often the intervals of answers that nobody measured hold."""
    generator = torch.Generator().manual_seed(seed)
    answers: dict[tuple[str, ...], Strategy] = {}
    draws = 0
    while len(answers) < FRESH and draws < MOST_DRAWS:
        draws += 1
        answer = profile.answer(bits=draw_bits(profile, generator))
        if answer.divergence is not None and not answer.divergence.measured:
            answers.setdefault(tuple(map(str, answer.units.items())), answer)
    found = evaluator.evaluate([answer.units for answer in answers.values()])
    rows: list[dict[str, Any]] = [
        {
            "bits": round(float(answer.bits or 0.0), 4),
            "source": answer.source,
            "predicted": round(answer.divergence.mean, 5),
            "interval90": [round(value, 5) for value in answer.divergence.interval90],
            "measured": round(one.value, 5),
        }
        for answer, one in zip(answers.values(), found, strict=True)
        if answer.divergence is not None
    ]
    held = [row["interval90"][0] <= row["measured"] <= row["interval90"][1] for row in rows]
    widths = [math.log(row["interval90"][1] / row["interval90"][0]) for row in rows]
    return {
        "answers_drawn": draws,
        "coverage_of_90_percent_interval": round(sum(held) / len(held), 4),
        "mean_width_in_log": round(statistics.mean(widths), 4),
        "answers": rows,
    }


def compare_ranks(profile: Profile, evaluator: UnitsEvaluator, bits: float, seed: int) -> dict[str, Any]:
    """How predictions rank strategies at one budget, beside the prior alone and half of the windows."""
    budget, generator = 1.0 - bits / DENSE_BITS, torch.Generator().manual_seed(seed)
    X = draw_around(profile, Request.of(bits=bits), budget, generator)
    space = profile.search_space
    found = evaluator.evaluate([space.to_units(row) for row in X])
    measured = torch.tensor([one.value for one in found], dtype=torch.float64)
    halves = torch.tensor([one.per_window for one in found], dtype=torch.float64).chunk(2, 1)
    with torch.no_grad():
        mean, _ = profile.posterior.log_predict(X)
        prior = profile.posterior.prior(X) if profile.posterior.prior is not None else mean
    return {
        "bits": bits,
        "strategies": len(X),
        "spearman": rank_correlation(mean, measured),
        "spearman_of_prior_alone": rank_correlation(prior, measured),
        "spearman_of_one_half_of_the_windows_with_the_other": rank_correlation(*(half.mean(1) for half in halves)),
        "measured_range": [round(float(measured.min()), 4), round(float(measured.max()), 4)],
    }


def draw_bits(profile: Profile, generator: torch.Generator) -> float:
    """A number of bits between the floor and eight."""
    floor = min(strategy.bits for strategy in profile.front() if strategy.bits is not None)
    return round(floor + (MOST_BITS - floor) * torch.rand(1, generator=generator).item(), 3)


def divergence(dense: nn.Module, windows: Tensor, folder: Path) -> float:
    """Of an exported checkpoint, as Transformers loads it."""
    found = compare_models(dense, load_model(str(folder), dtype="float32", prunable=False), windows).divergence
    assert found is not None
    return found.mean


def carry_out(
    profile: Profile, evaluator: UnitsEvaluator, compared: Callable[[Path], float], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Ten exports: bytes, divergences, seconds."""
    generator = torch.Generator().manual_seed(args.seed)
    found = []
    for place in range(EXPORTS):
        bits = draw_bits(profile, generator)
        strategy = profile.answer(bits=bits)
        with TemporaryDirectory() as folder, timed_verdicts() as spent:
            modifier = SparsityProfileModifier(profile=args.profile, request={"bits": bits}, levels=str(args.levels))
            began, used = time.perf_counter(), time.process_time()
            done = prune(args.model, [modifier], Path(folder) / "out")
            wall, cpu = time.perf_counter() - began, time.process_time() - used
            [promised] = evaluator.evaluate([strategy.units])
            measured = compared(done.path)
            found.append(
                {
                    "bits": bits,
                    "answered_bits": strategy.bits,
                    "bytes_promised": strategy.bytes,
                    "bytes_of_file": done.bytes,
                    "bytes_of_tensors": sum(tensor_bytes(path) for path in done.path.glob("*.safetensors")),
                    "divergence_promised": promised.value,
                    "divergence_measured": measured,
                    "relative_difference": abs(measured / promised.value - 1.0),
                    "seconds": round(wall - spent["wall"], 2),
                    "cpu_seconds": round(cpu - spent["cpu"], 2),
                    "verdict_seconds": round(spent["wall"], 2),
                    "verdict_cpu_seconds": round(spent["cpu"], 2),
                }
            )
        print(place + 1, json.dumps(found[-1]), flush=True)
    return found


def tensor_bytes(path: Path) -> int:
    """Bytes of a safetensors file less its header."""
    with path.open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
    return path.stat().st_size - 8 - int(header)


@contextmanager
def timed_verdicts() -> Iterator[dict[str, float]]:
    """Add up the seconds of what judges a checkpoint after it was written."""
    spent = {"wall": 0.0, "cpu": 0.0}

    def timed(judge: Callable[..., Any]) -> Callable[..., Any]:
        def run(*values: Any) -> Any:
            began, used = time.perf_counter(), time.process_time()
            try:
                return judge(*values)
            finally:
                spent["wall"] += time.perf_counter() - began
                spent["cpu"] += time.process_time() - used

        return run

    with (
        patch(f"{SAVING}.check_verdict", timed(check_verdict)),
        patch(f"{SAVING}.check_served", timed(check_served)),
        patch(f"{SAVING}.check_checkpoint", timed(check_checkpoint)),
    ):
        yield spent


if __name__ == "__main__":
    main()
