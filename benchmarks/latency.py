r"""Ten answers of packaged profiles, exported and timed as a whole, beside what a device's table predicts of them.

    OMP_NUM_THREADS=2 python benchmarks/latency.py

A table is measured first (``--table``, gone on with if it is there), then SmolLM2 is pruned to ten answers of the
profiles ``depth`` and ``structured``, and each checkpoint is loaded by ``unicuco_plugin.load`` and timed at contexts
of the table, and at one between two of them. Checkpoints take turns, ``--rounds`` times, and so does a second table, a
part of which is measured in every round: predictions are that one's, so that a busy hour is everybody's, and what is
told is how well times add up. ``drift`` is the dense model's time in the second table over that in the first. All are
medians. Ratios are measured over predicted; ``beside_dense`` is one divided by the dense model's.

``--clock processor`` counts the process's own processor time on one thread instead of the wall's: for a machine that
others use. What it tells of is the same sum of parts, not what anybody waits.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import ROOT, write_result

import unicuco_plugin
from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.latency import TimedCosts
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.checkpoints.demo import find_smollm2
from unicuco_plugin.models.loading import display_name, load_model
from unicuco_plugin.modifiers.export.oneshot import prune
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.progress import Progress
from unicuco_plugin.quantities import Load
from unicuco_plugin.strategy import ModelReference
from unicuco_plugin.timing import running
from unicuco_plugin.timing.measurement import Sizes
from unicuco_plugin.timing.profile import profile_device

DEPTH, STRUCTURED = "smollm2-135m-instruct-depth", "smollm2-135m-instruct-structured"
ASKED: list[tuple[str, dict[str, Any]]] = [
    *((DEPTH, {"sparsity": share}) for share in (0.1, 0.2, 0.3, 0.5)),
    (DEPTH, {"min_speedup": 1.3}),
    *((STRUCTURED, {"sparsity": share}) for share in (0.1, 0.25, 0.4)),
    (STRUCTURED, {"min_speedup": 1.3}),
    (STRUCTURED, {"min_speedup": 1.3, "phase": "prefill"}),
]


def main() -> None:
    """Measure the table, export, and let the checkpoints take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="")
    parser.add_argument("--table", type=Path, help="kept there; a temporary one if left out")
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--at", type=int, nargs="+", default=[128, 320, 512], help="contexts that are predicted")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "latency.json")
    args = parser.parse_args()
    if min(args.at) < min(args.contexts) or max(args.at) > max(args.contexts):
        parser.error(f"--at must lie within --contexts, {min(args.contexts)} to {max(args.contexts)}, got {args.at}")
    if args.clock == "processor":
        torch.set_num_threads(1)
        running.clock = time.process_time
    model = args.model or str(find_smollm2())
    with tempfile.TemporaryDirectory() as folder:
        file = args.table or Path(folder) / "device.json"
        dense = load_model(model, dtype="float32")
        reference = ModelReference(name=display_name(model), fingerprint=str(fingerprint(dense)))
        sizes = Sizes(args.batches, args.contexts, args.repeats)
        resume = os.path.lexists(file)
        first = profile_device(find_decoder(dense), file, reference, sizes, resume=resume, progress=print)
        dense.save_pretrained(Path(folder) / "dense")
        again = partial(
            profile_device, output=Path(folder) / "again.json", model=reference, sizes=sizes, progress=print
        )
        del dense
        exported = [(*_export(model, number, file, args, Path(folder)), *ASKED[number]) for number in range(len(ASKED))]
        measured, table = _take_turns([Path(folder) / "dense", *(path for path, *_ in exported)], args, again)
    rows: list[dict[str, Any]] = [{"asked": "dense"} | {"times": _compare(table, None, None, measured[0])}]
    for (_, strategy, name, request), times in zip(exported, measured[1:], strict=True):
        loaded = unicuco_plugin.load_profile(name)
        row = {"profile": name, "asked": request, "sparsity": round(strategy.sparsity, 4)}
        compared = _compare(table, loaded, strategy, times)
        for own, dense_one in zip(compared, rows[0]["times"], strict=True):
            own["beside_dense"] = round(own["ratio"] / dense_one["ratio"], 4)
        rows.append(row | {"times": compared})
    ratios = [time["ratio"] for row in rows[1:] for time in row["times"]]
    beside = sum(abs(time["beside_dense"] - 1.0) <= 0.1 for row in rows[1:] for time in row["times"])
    drift = {}
    for point in table.points:
        now, before = (one.at(point.phase, point.batch, point.context)[0] for one in (table, first))
        drift[f"{point.phase}, {point.context}"] = round(now / before, 4)
    worst = max(ratios, key=lambda ratio: abs(ratio - 1.0))
    within = sum(abs(ratio - 1.0) <= 0.1 for ratio in ratios)
    print(f"{within} of {len(ratios)} within 10 %, {beside} beside the dense model; furthest off {worst}")
    facts = {"model": reference.name, "clock": args.clock, "device": table.device.model_dump(mode="json")}
    counted = {"within_10_percent": within, "beside_dense_within": beside, "of": len(ratios), "worst": worst}
    write_result(args.output, facts | counted | {"drift": drift, "rows": rows})


def _export(model: str, number: int, table: Path, args: argparse.Namespace, folder: Path) -> tuple[Path, Any]:
    """One answer as a checkpoint in float32, and its strategy."""
    name, request = ASKED[number]
    output = folder / str(number)
    asked = {**request, "context": args.at[0], "batch": args.batches[0]}
    modifier = SparsityProfileModifier(profile=name, request=asked, device_table=str(table))
    [strategy] = prune(model, modifier, output, dtype="float32").strategies
    print(output.name, name, request, f"{strategy.sparsity:.3f}")
    return output, strategy


def _take_turns(
    folders: list[Path], args: argparse.Namespace, profile: Callable[..., DeviceTable]
) -> tuple[list[dict[tuple[str, int, int], list[float]]], DeviceTable]:
    """Milliseconds by phase, batch and context, of each checkpoint, and the table that was measured in between."""
    found: list[dict[tuple[str, int, int], list[float]]] = [{} for _ in folders]
    table = None
    for turn in range(args.rounds):
        for folder, times in zip(folders, found, strict=True):
            generation = running.Generation(unicuco_plugin.load(folder, dtype="float32"))
            for batch in args.batches:
                generation.warm_up(batch)
                for context in args.at:
                    for phase, each in generation.run(batch, context, running.STEPS).items():
                        times.setdefault((phase, batch, context), []).append(statistics.median(each))
        dense = load_model(str(folders[0]), dtype="float32")
        until = (turn + 1) / args.rounds
        with suppress(_EnoughError):
            table = profile(find_decoder(dense), resume=turn > 0, progress=partial(_stop, until))
        print("round", turn + 1, "of", args.rounds)
    assert table is not None
    return found, table


class _EnoughError(Exception):
    """A part of a table is measured."""


def _stop(until: float, event: Progress) -> None:
    if until < 1.0 and event.done >= until * event.total:
        raise _EnoughError


def _compare(table: DeviceTable, profile: Any, strategy: Any, times: dict[Any, list[float]]) -> list[dict[str, Any]]:
    """What was predicted and measured under each load, in ms."""
    rows = []
    for (phase, batch, context), samples in times.items():
        predicted = table.at(phase, batch, context)[0]
        if profile is not None:
            timed = TimedCosts(profile.costs, table, profile.space, Load(context, batch))
            predicted = timed.milliseconds(phase, profile.costs.row(strategy.units)).item()
        measured = statistics.median(samples)
        row = {"phase": phase, "batch": batch, "context": context, "predicted": round(predicted, 3)}
        spread = [round(min(samples), 3), round(max(samples), 3)]
        rows.append(row | {"measured": round(measured, 3), "spread": spread, "ratio": round(measured / predicted, 4)})
    return rows


if __name__ == "__main__":
    main()
