r"""Zero-shot accuracy and perplexity of compensated answers beside uncompensated ones, paired.

    python benchmarks/zero_shot_compensation.py --model MODEL --blocks 4 8 11

Sets of blocks are those of the results of ``compensation.py``: the packaged profile's answers, dropped as they are, and
those of a profile that was trained with ``ridge``, corrected from ``--calibration-windows`` windows of 512 tokens (as a
recipe does: what raises the divergence on windows held out is left out). lm-eval asks each model the first ``--limit``
documents of the shared tasks, and the perplexity of the reference's windows is taken. Differences are of the same
documents and windows, so their standard errors are those of a paired comparison. Everything is float32.

Each answer is written when it is there; the same command goes on after a kill.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import SHARED, TEXTS, reference_windows, write_result
from torch import Tensor, nn
from zero_shot import METRIC, TASKS, digits, entry, scores_of

from unicuco_plugin.compensation.compensate import compensate
from unicuco_plugin.compensation.dense_states import DenseStates
from unicuco_plugin.evaluation.tasks import compare_tasks, find_tasks, mean_of_tasks, run_tasks
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.blocks.surgery import dropped
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.objectives.head import DivergenceHead
from unicuco_plugin.plugins.manager import make_compensation
from unicuco_plugin.texts.calibration import load_windows

RESULTS = Path(__file__).parent / "results"
# Whose answers, in which result, and what they are corrected with.
ANSWERS = {
    "packaged": ("compensation.json", "profile smollm2-135m-instruct-depth", None),
    "ridge": ("compensation-trained.json", "profile ridge-0", "ridge"),
}


def main() -> None:
    """Ask every missing answer, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 8, 11])
    parser.add_argument("--calibration-windows", type=int, default=128)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "zero-shot-compensation.json")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    result: dict[str, Any] = {"limit": asked.limit, "dtype": "float32", "answers": {}, "rows": []}
    if asked.output.exists():
        result["answers"] = json.loads(asked.output.read_text(encoding="utf8"))["answers"]
    manager = find_tasks(TASKS, SHARED / "data/tasks")
    decoder, tokenizer = find_decoder(load_model(asked.model, dtype="float32")), load_tokenizer(asked.model)
    files = [SHARED / "data" / "text" / f"calib_{name}.txt" for name in ("wikipedia", "webtext")]
    solve = load_windows(files, tokenizer, count=asked.calibration_windows, length=512, seed=0)
    texts = {text: reference_windows(asked.model, text) for text in TEXTS}
    wanted: dict[str, tuple[list[int], str | None]] = {}
    for count in asked.blocks:
        wanted |= {f"{name} {count}": (find_set(name, count), ANSWERS[name][2]) for name in ANSWERS}
    wanted["dense"] = ([], None)
    for name, (gone, method) in wanted.items():
        if name in result["answers"]:
            continue
        started = time.perf_counter()
        with pruned(decoder, gone, method, solve):
            found = run_tasks(decoder.model, tokenizer, TASKS, manager, limit=asked.limit)
            losses = {text: window_losses(decoder.model, windows) for text, windows in texts.items()}
        result["answers"][name] = {
            "removed": gone,
            "seconds": round(time.perf_counter() - started, 1),
            "losses": losses,
            "tasks": {task: digits(scores[METRIC]) for task, scores in found.items()},
        }
        print(name, result["answers"][name]["seconds"], flush=True)
        write_result(asked.output, result)
    for count in asked.blocks:
        plain, better = (result["answers"][f"{name} {count}"] for name in ANSWERS)
        for other, one in (("dense", plain), ("dense", better), ("packaged", better)):
            base = result["answers"]["dense"] if other == "dense" else plain
            compared = compare_tasks(scores_of(base["tasks"]), scores_of(one["tasks"]))
            row: dict[str, Any] = {"blocks": count, "answer": "packaged" if one is plain else "ridge", "beside": other}
            row |= {part.task: entry(part) for part in (*compared, *mean_of_tasks(compared))}
            for text in TEXTS:
                row[f"perplexity, {text}"] = perplexities(base["losses"][text], one["losses"][text])
            result["rows"].append(row)
            print(
                row["blocks"],
                row["answer"],
                other,
                row[f"mean of {len(TASKS)}"],
                [row[f"perplexity, {text}"] for text in TEXTS],
            )
    write_result(asked.output, result)


def find_set(name: str, count: int) -> list[int]:
    """Blocks of an answer."""
    file, whose, _ = ANSWERS[name]
    rows = json.loads((RESULTS / file).read_text(encoding="utf8"))["rows"]
    return [
        int(i) for i in next(row["removed"] for row in rows if whose in row["answers"] and len(row["removed"]) == count)
    ]


@contextmanager
def pruned(decoder: Decoder, gone: list[int], method: str | None, windows: Tensor) -> Iterator[None]:
    """The model without some blocks, corrected as a recipe does."""
    if method is None:
        with dropped(decoder.model, gone):
            yield
        return
    runner = BlockRunner(decoder, windows.shape[1])
    done = compensate(DenseStates(runner, windows), gone, make_compensation(method), DivergenceHead(runner).divergences)
    restore = done.fold(decoder, gone)
    try:
        with dropped(decoder.model, gone):
            yield
    finally:
        restore()


@torch.inference_mode()
def window_losses(model: nn.Module, windows: Tensor) -> list[float]:
    """Mean loss of the next token in each window, nats."""
    losses = []
    for window in windows:
        logits = model(window[None], use_cache=False).logits[0, :-1].float()
        losses.append(round(float(nn.functional.cross_entropy(logits, window[1:])), 5))
    return losses


def perplexities(before: list[float], after: list[float]) -> dict[str, float]:
    """Of both, and the paired difference of their logarithms."""
    a, b = (torch.tensor(losses, dtype=torch.float64) for losses in (before, after))
    error = float((b - a).std() / math.sqrt(len(a)))
    numbers = {"beside": math.exp(a.mean()), "answer": math.exp(b.mean()), "log_ratio": float((b - a).mean())}
    return {name: round(value, 4) for name, value in (numbers | {"standard_error": error}).items()}


if __name__ == "__main__":
    main()
