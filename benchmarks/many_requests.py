"""Sixty-four requests: our training and answers against one EvoPress search each.

    python benchmarks/many_requests.py --profile PROFILE --plain-tokens-per-second N --output FILE

Tokens of EvoPress follow from its settings as our peer has them: 64 random genomes, then int(k(n-k)/1.5) generations,
each scoring its offspring on few tokens, and the survivors and the parent on many. Its seconds are those tokens at
the rate that ``candidate_cost.py`` measured for a plain forward with KL on the machine of the training; ours are the
whole of training, Gaussian process and StratNet included, and the answers, timed here.
"""

import argparse
import statistics
import time
from pathlib import Path

from common import removed, write_result

from unicuco_plugin.answering import load_profile
from unicuco_plugin.peers.evopress import drop_settings
from unicuco_plugin.peers.peer import Setting
from unicuco_plugin.request import Request

REQUESTS = 64
SETTINGS: tuple[Setting, ...] = ("official", "super_fast")
RUNS = 20


def main() -> None:
    """Time the answers, add up the tokens, write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--plain-tokens-per-second", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    requests = _requests()
    load_profile(args.profile).answer_many(requests)  # imports and allocators warm, as in any second call
    times = []
    for _ in range(RUNS):
        profile = load_profile(args.profile)
        started = time.perf_counter()
        answers = profile.answer_many(requests)
        times.append(time.perf_counter() - started)
    n = len(profile.units)
    counts = [len(removed(answer)) for answer in answers]
    spent = profile.provenance
    result = {
        "requests": [request.to_dict() for request in requests],
        "distinct_answers": len({removed(answer) for answer in answers}),
        "answer_milliseconds": {
            "median": round(1000 * statistics.median(times), 2),
            "largest": round(1000 * max(times), 2),
            "runs": RUNS,
        },
        "ours": {
            "tokens": spent["evaluation_tokens"],
            "training_seconds": spent["seconds"],
            "evaluation_seconds": spent["evaluation_seconds"],
        },
    }
    for name in SETTINGS:
        tokens = sum(_evopress_tokens(n, k, name) for k in counts)
        seconds = tokens / args.plain_tokens_per_second
        result[f"evopress_{name}"] = {
            "tokens": tokens,
            "seconds_at_plain_rate": round(seconds),
            "tokens_over_ours": round(tokens / spent["evaluation_tokens"], 1),
            "seconds_over_ours": round(seconds / (spent["seconds"] + max(times)), 1),
        }
    print(result)
    write_result(args.output, result)


def _requests() -> list[Request]:
    """Every kind of budget, all distinct, over the range that a user would ask for."""
    sparsities = [Request.of(sparsity=round(0.03 + 0.72 * i / 31, 4)) for i in range(32)]
    sizes = [Request.of(max_params=int(134e6 * (1 - 0.55 * (i + 1) / 16))) for i in range(16)]
    divergences = [Request.of(max_divergence=round(0.2 * 1.25**i, 4)) for i in range(12)]
    preferences = [Request.of(preference=(x, 1 - x)) for x in (0.2, 0.4, 0.6, 0.8)]
    return sparsities + sizes + divergences + preferences


def _evopress_tokens(n: int, k: int, name: Setting) -> int:
    settings = drop_settings(name, n, k)
    return settings.initial * settings.initial_tokens + settings.generations * settings.generation_tokens


if __name__ == "__main__":
    main()
