"""Seconds per candidate: the shared-prefix evaluator against a plain forward of the really pruned model.

    python benchmarks/candidate_cost.py --model MODEL --profile PROFILE --calibration FILE… --output FILE

The candidates are those of a real search: ``--count`` of the profile's archive, evenly spread over the order they were
measured in, in batches as the search made them. The plain way is what a script would do: drop the blocks, run the whole
model on all windows, take float32 log-probabilities of the full logits, and the KL to the dense ones, which it keeps.
Both ways take turns, batch by batch, in one process on the same windows. In bfloat16 they differ by how matrix products
of different shapes round, so the last batch is compared in float32 as well.
"""

import argparse
import resource
import time
from pathlib import Path

import torch
from common import decoder_of, write_result
from torch import Tensor

from unicuco_plugin.answering import load_profile
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.surgery import dropped
from unicuco_plugin.models.loading import load_tokenizer
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.texts.calibration import load_windows


def main() -> None:
    """Measure both ways and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--calibration", nargs="+", required=True)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    profile = load_profile(args.profile)
    settings = profile.provenance["settings"]
    length, tokens, batch = settings["rank_seq_length"], settings["rank_tokens"], settings["batch"]
    windows = load_windows(args.calibration, load_tokenizer(args.model), count=tokens // length, length=length, seed=0)
    decoder = decoder_of(args.model)
    searched = [
        tuple(profile.search_space.parse(e.strategy).nonzero()[:, 0].tolist())
        for e in profile.record.archive
        if e.measured
    ]
    firsts = range(0, len(searched) - batch + 1, max(batch, len(searched) * batch // args.count))
    evaluator = BlockEvaluator(decoder, windows, batch_windows=settings["batch_windows"])
    evaluator.evaluate([searched[0]])  # the dense states, once for a whole search
    before = _peak()
    seconds = {"ours": 0.0, "plain": 0.0}
    worst, count = 0.0, 0
    for first in firsts:
        part = searched[first : first + batch]
        started = time.perf_counter()
        ours = [evaluation.value for evaluation in evaluator.evaluate(part)]
        seconds["ours"] += time.perf_counter() - started
        peak_ours = _peak()
        if first == 0:
            dense = _log_probabilities(decoder, windows)
        started = time.perf_counter()
        plain = [_plain(decoder, windows, dense, chosen) for chosen in part]
        seconds["plain"] += time.perf_counter() - started
        worst = max(worst, *(abs(a / b - 1.0) for a, b in zip(ours, plain, strict=True)))
        count += len(part)
        if first == 0:
            peak_first = peak_ours
        print(f"{count} candidates: {seconds['plain'] / seconds['ours']:.2f}x")
    decoder.model.float()
    evaluator = BlockEvaluator(decoder, windows, batch_windows=settings["batch_windows"])
    part = searched[-batch:]
    dense = _log_probabilities(decoder, windows)
    exact = [_plain(decoder, windows, dense, chosen) for chosen in part]
    ours = [evaluation.value for evaluation in evaluator.evaluate(part)]
    result = {
        "candidates": count,
        "tokens_per_candidate": tokens,
        "seconds_per_candidate": {way: round(spent / count, 4) for way, spent in seconds.items()},
        "plain_over_ours": round(seconds["plain"] / seconds["ours"], 3),
        "largest_relative_difference": worst,
        "largest_relative_difference_in_float32": max(abs(a / b - 1.0) for a, b in zip(ours, exact, strict=True)),
        "peak_rss_mb": {"model_and_dense_states": before, "with_ours": peak_first, "with_plain": _peak()},
        "plain_tokens_per_second": round(tokens * count / seconds["plain"], 1),
    }
    print(result)
    write_result(args.output, result)


@torch.inference_mode()
def _log_probabilities(decoder: Decoder, windows: Tensor) -> Tensor:
    logits: Tensor = decoder.model(input_ids=windows, use_cache=False).logits
    return logits.float().log_softmax(-1)


def _plain(decoder: Decoder, windows: Tensor, dense: Tensor, chosen: tuple[int, ...]) -> float:
    with dropped(decoder.model, chosen):
        pruned = _log_probabilities(decoder, windows)
    return (dense.exp() * (dense - pruned)).sum(-1).mean().item()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
