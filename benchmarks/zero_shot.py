r"""Zero-shot accuracy of the answers that a ``unicuco benchmark`` found, paired with the dense model's.

    unicuco benchmark benchmarks/peers_depth.yaml --output runs/peers-depth
    python benchmarks/zero_shot.py --model MODEL --answers runs/peers-depth/results.json \
        --budgets 0.125 0.25 0.36 --output benchmarks/results/zero-shot-depth.json

Needs the extra ``[eval]``, and the repository's root as working folder: the shared tasks name their files from there.
Every answer of the benchmark's methods, of its first seed (or all, ``--all-seeds``) and at ``--budgets``, is put into
the model: blocks are dropped, linears stitched from ``--levels``. lm-eval then asks it the first ``--limit`` documents
of each task; ``acc`` is what all tasks have. Differences are of the same documents, so their standard errors are those
of a paired comparison.

Each answer is written when its tasks are done, with one digit per document; the same command goes on after a kill. Two
methods with one answer are asked once.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import SHARED, decoder_of, write_result

from unicuco_plugin.evaluation.tasks import Scores, compare_tasks, find_tasks, mean_of_tasks, run_tasks
from unicuco_plugin.levels.stitch import Stitcher
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.surgery import dropped
from unicuco_plugin.models.loading import load_tokenizer
from unicuco_plugin.spaces.plan import plan_counts

TASKS = ("arc_challenge", "arc_easy", "piqa", "social_iqa", "subject_verb", "wikihow_goal", "winogrande")
METRIC = "acc"


def main() -> None:
    """Ask every missing answer its tasks, then compare."""
    args = _arguments()
    source = json.loads(args.answers.read_text(encoding="utf8"))
    rows = [row for row in source["rows"] if row["group"] == "methods" and row["budget"] in args.budgets]
    first = min(row["seed"] for row in rows)
    rows = [row for row in rows if row["seed"] == first or row["method"] in args.all_seeds]
    manager = find_tasks(args.tasks, SHARED / "data/tasks")
    decoder, tokenizer = decoder_of(args.model), load_tokenizer(args.model)
    levels = Levels.open(args.levels) if args.levels else None
    result: dict[str, Any] = {"limit": args.limit, "tasks": args.tasks, "answers": {}, "rows": []}
    if args.output.exists():
        before = json.loads(args.output.read_text(encoding="utf8"))
        if (before["limit"], before["tasks"]) == (args.limit, args.tasks):
            result["answers"] = before["answers"]
    for units in [{}, *(row["units"] for row in rows)]:
        name = _name(units)
        if name in result["answers"]:
            continue
        started = time.perf_counter()
        with _pruned(decoder, source["space"], units, levels):
            found = run_tasks(decoder.model, tokenizer, args.tasks, manager, limit=args.limit)
        result["answers"][name] = {
            "seconds": round(time.perf_counter() - started, 1),
            **{task: digits(scores[METRIC]) for task, scores in found.items()},
        }
        print(name, result["answers"][name]["seconds"], flush=True)
        write_result(args.output, result)
    dense = scores_of(result["answers"][_name({})])
    for row in rows:
        compared = compare_tasks(dense, scores_of(result["answers"][_name(row["units"])]))
        result["rows"].append(
            {key: row[key] for key in ("method", "budget", "seed", "sparsity")}
            | {part.task: entry(part) for part in (*compared, *mean_of_tasks(compared))}
        )
    for row in result["rows"]:
        print(row["budget"], row["method"], row[f"mean of {len(args.tasks)}"])
    write_result(args.output, result)


@contextmanager
def _pruned(decoder: Decoder, space: str, units: Mapping[str, float], levels: Levels | None) -> Iterator[None]:
    if not units:
        yield
    elif levels is None:
        if space != "depth":
            raise SystemExit(f"answers of the space {space!r} need --levels, or are not served here")
        with dropped(decoder.model, [decoder.block_names.index(name) for name in units]):
            yield
    else:
        with Stitcher(decoder, levels) as stitcher:
            stitcher.apply(plan_counts(units, levels.sizes))
            yield


def _name(units: Mapping[str, float]) -> str:
    if not units:
        return "dense"
    return hashlib.sha256(json.dumps(units, sort_keys=True).encode()).hexdigest()[:16]


def digits(scores: Mapping[int, float]) -> str:
    """One digit per document, in order."""
    return "".join(str(int(scores[document])) for document in sorted(scores))


def scores_of(answer: Mapping[str, Any]) -> dict[str, Scores]:
    """What was written of an answer, as scores."""
    return {
        task: {METRIC: {document: float(digit) for document, digit in enumerate(digits)}}
        for task, digits in answer.items()
        if task != "seconds"
    }


def entry(part: Any) -> dict[str, float]:
    """Accuracies of both, and their difference with its paired standard error."""
    return {
        "dense": round(part.dense.mean, 4),
        "pruned": round(part.pruned.mean, 4),
        "difference": round(part.difference.mean, 4),
        "standard_error": round(part.difference.standard_error, 4),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--answers", type=Path, required=True, help="results.json of unicuco benchmark")
    parser.add_argument("--levels", type=Path)
    parser.add_argument("--budgets", nargs="+", type=float, required=True)
    parser.add_argument("--all-seeds", nargs="+", default=[], metavar="METHOD", help="ask these methods' every seed")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
