"""Answers exported and timed in vLLM, beside what a table of vLLM's times predicts of them.

    python benchmarks/latency_vllm.py --vllm-python /path/to/vllm/env/bin/python

Measures the table (``--table``, gone on with if it is there), prunes SmolLM2 to a few answers of the packaged profile
of blocks, and lets ``verify_latency`` time each checkpoint and the dense model in turn. ``--uneven`` takes checkpoints
of ``structured`` or ``sublayer`` in the form ``deci``, timed in the same way. ``ratio`` is measured over predicted;
``beside_dense`` is the same less what the machine was slower or faster by than when the table was measured.
vLLM's environment: see export_vllm.py.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, write_result

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.latency import TimedCosts
from unicuco_plugin.costs.measure import part_costs, uneven_costs
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.checkpoints.demo import find_smollm2
from unicuco_plugin.models.loading import display_name, load_config, load_model
from unicuco_plugin.models.sketch import sketch_model
from unicuco_plugin.modifiers.export.oneshot import prune
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.quantities import Load
from unicuco_plugin.strategy import ModelReference, Strategy
from unicuco_plugin.timing.measurement import PHASES, Sizes
from unicuco_plugin.timing.variants import find_variants
from unicuco_plugin.timing.verify import time_checkpoint, verify_latency
from unicuco_plugin.timing.vllm_engine import VllmEngine
from unicuco_plugin.timing.wholes import profile_wholes

PROFILE = "smollm2-135m-instruct-depth"
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}


def main() -> None:
    """Measure, export, verify."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", type=Path, required=True)
    parser.add_argument("--table", type=Path, help="kept there; a temporary one if left out")
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.15, 0.3, 0.5])
    parser.add_argument("--uneven", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "latency-vllm.json")
    args = parser.parse_args()
    os.environ |= ENVIRONMENT
    model = str(find_smollm2())
    engine = VllmEngine.find(args.vllm_python, eager=True)
    with tempfile.TemporaryDirectory() as folder:
        file = args.table or Path(folder) / "device.json"
        dense = load_model(model, dtype=args.dtype)
        reference = ModelReference(name=display_name(model), fingerprint=str(fingerprint(dense)))
        variants = find_variants(find_decoder(dense))
        del dense
        sizes = Sizes([1], args.contexts, args.repeats)
        resume = os.path.lexists(file)
        table = profile_wholes(variants, file, reference, engine, sizes, resume=resume, progress=print)
        rows = [row for share in args.shares for row in _verify(model, share, file, Path(folder), args)]
        rows += [row for checkpoint in args.uneven for row in _compare(model, checkpoint, table, args)]
    told = {"model": reference.name, "device": table.device.model_dump(mode="json"), "contexts": args.contexts}
    within = sum(abs(row["beside_dense"] - 1.0) <= 0.1 for row in rows)
    counted = {"beside_dense_within": within, "of": len(rows), "rows": rows}
    lists = ["--contexts", *map(str, args.contexts), "--shares", *map(str, args.shares)]
    shown = ["--vllm-python", "PYTHON", *lists, "--dtype", args.dtype, "--repeats", str(args.repeats)]
    write_result(args.output, told | counted, shown)


def _verify(model: str, share: float, table: Path, folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One answer as a checkpoint, timed; observations of others do not correct what is predicted of it."""
    own = folder / f"table-{share}.json"
    DeviceTable.read(table).model_copy(update={"observations": ()}).write(own)
    asked = {"sparsity": share, "context": max(args.contexts)}
    modifier = SparsityProfileModifier(profile=PROFILE, request=asked, device_table=str(own))
    done = prune(model, modifier, folder / str(share), dtype=args.dtype)
    [strategy] = done.strategies
    found = verify_latency(done.path, strategy, own, model, format=done.format, python=args.vllm_python)
    rows = [
        {
            "asked": share,
            "phase": one.phase,
            "context": one.context,
            "predicted": round(one.predicted, 3),
            "measured": round(one.measured, 3),
            "ratio": round(one.measured / one.predicted, 4),
            "beside_dense": round(one.ratio, 4),
        }
        for one in found
    ]
    print(rows)
    return rows


def _compare(model: str, folder: Path, table: DeviceTable, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A checkpoint of uneven blocks, timed beside the dense model."""
    strategy, load = Strategy.read(folder / "strategy.json"), Load(max(args.contexts))
    decoder = find_decoder(sketch_model(load_config(model)))
    costs = part_costs(decoder, compensate=False, uneven=True) if strategy.traits.cuts else uneven_costs(decoder)
    timed = TimedCosts(costs, table, strategy.space, load)
    dense = time_checkpoint(Path(model), table.device, load, args.vllm_python)
    found = time_checkpoint(folder, table.device, load, args.vllm_python, own_code=True)
    rows = []
    for phase in PHASES:
        predicted = timed.milliseconds(phase, costs.row(strategy.shares)).item()
        ratio = found[phase] / predicted
        drift = dense[phase] / table.at(phase, load.batch, load.context)[0]
        row: dict[str, Any] = {"asked": folder.name, "phase": phase, "context": load.context}
        row |= {"predicted": round(predicted, 3), "measured": round(found[phase], 3)}
        rows.append(row | {"ratio": round(ratio, 4), "beside_dense": round(ratio / drift, 4)})
    print(rows)
    return rows


if __name__ == "__main__":
    main()
