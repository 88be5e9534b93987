"""Depth quality on texts that no training saw, beside the reference's rows.

    python benchmarks/quality.py --model MODEL --profile PROFILE [--profile …] --output benchmarks/results/quality.json

Every profile answers 4, 8, 11 and 15 of 30 blocks: its full answer, StratNet alone, the archive alone. Each set
is measured on the reference's windows by our evaluator; ``--check`` measures the full answers of the first profile by
the reference's own program too, which shares no code with ours. Ratios are to the best row at each budget and text.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import SHARED, TEXTS, decoder_of, reference_windows, removed, write_result

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.request import Request

COUNTS = (4, 8, 11, 15)
SCORES = ("shortgpt", "weight_subcloning", "cosine_window")

Set = tuple[int, ...]
Cells = dict[tuple[int, str], float]


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", action="append", required=True)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    profiles = {name: load_profile(name) for name in args.profile}
    answers = {name: _answers(profile) for name, profile in profiles.items()}
    distinct = sorted({chosen for ways in answers.values() for sets in ways.values() for chosen in sets.values()})
    measured = _measure(args.model, distinct)
    rows = json.loads((SHARED / "reference" / "depth-smollm2.json").read_text(encoding="utf8"))["rows"]
    best, scored = _best(rows, ()), _best(rows, SCORES)
    report: dict[str, Any] = {}
    for name, ways in answers.items():
        report[name] = {
            "evaluation_tokens": profiles[name].provenance["evaluation_tokens"],
            "seed": profiles[name].provenance["seed"],
            "sources": {k: profiles[name].answer(sparsity=k / 30).source for k in COUNTS},
        }
        for way, sets in ways.items():
            cells: Cells = {(k, text): measured[sets[k]][text] for k in COUNTS for text in TEXTS}
            report[name][way] = _compare(sets, cells, best, scored)
            print(f"{name} {way}: {report[name][way]['summary']}")
    result: dict[str, Any] = {"profiles": report}
    if args.check:
        sets = next(iter(answers.values()))["full"]
        result["reference_program"] = {
            str(k): {"ours": measured[sets[k]], "theirs": _reference(args.model, sets[k])} for k in COUNTS
        }
    write_result(args.output, result)


def _answers(profile: Profile) -> dict[str, dict[int, Set]]:
    requests = {k: Request.of(sparsity=k / 30) for k in COUNTS}
    return {
        "full": {k: removed(profile.answer(request)) for k, request in requests.items()},
        "stratnet": {k: removed(profile.proposals(request, "stratnet")) for k, request in requests.items()},
        "archive": {k: removed(profile.proposals(request, "archive")) for k, request in requests.items()},
    }


def _measure(model: str, sets: list[Set]) -> dict[Set, dict[str, float]]:
    decoder = decoder_of(model)
    found: dict[Set, dict[str, float]] = {chosen: {} for chosen in sets}
    for text in TEXTS:
        evaluator = BlockEvaluator(decoder, reference_windows(model, text))
        for start in range(0, len(sets), 8):
            part = sets[start : start + 8]
            for chosen, evaluation in zip(part, evaluator.evaluate(part), strict=True):
                found[chosen][text] = round(evaluation.value, 4)
    return found


def _reference(model: str, chosen: Set) -> dict[str, float]:
    program = [sys.executable, str(SHARED / "reference" / "evaluate_blocks.py"), model, ",".join(map(str, chosen))]
    output = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    return {text: values[0] for text, values in json.loads(output.splitlines()[-1]).items()}


def _best(rows: dict[str, Any], methods: tuple[str, ...]) -> Cells:
    best: Cells = {}
    for key, texts in rows.items():
        method, _, count = key.partition("/")
        if int(count) in COUNTS and (not methods or method in methods):
            for text, (divergence, _) in texts.items():
                cell = int(count), text
                best[cell] = min(best.get(cell, math.inf), divergence)
    return best


def _compare(sets: dict[int, Set], cells: Cells, best: Cells, scored: Cells) -> dict[str, Any]:
    ratios = {cell: value / best[cell] for cell, value in cells.items()}
    mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
    worst_score = max(value / scored[cell] for cell, value in cells.items())
    return {
        "summary": f"geometric mean {mean:.4f}, largest {max(ratios.values()):.4f}, "
        f"against score-based rows at most {worst_score:.4f}",
        "geometric_mean_ratio": round(mean, 4),
        "largest_ratio": round(max(ratios.values()), 4),
        "largest_ratio_to_best_score_based": round(worst_score, 4),
        "cells": {
            f"{k}/{text}": {"divergence": cells[k, text], "best_row": best[k, text], "ratio": round(ratios[k, text], 4)}
            for k, text in cells
        },
        "blocks": {k: list(chosen) for k, chosen in sets.items()},
    }


if __name__ == "__main__":
    main()
