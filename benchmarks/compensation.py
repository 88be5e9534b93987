"""What compensations do to answers for blocks or parts of them, ours and peers', on the two texts of the reference.

Sets of units come from profiles, each at the budgets of the benchmark of peers, and from the result of that benchmark.
Corrections are solved from calibration text and none is left out (a recipe leaves out what raises the divergence on
windows held out): what stands in a row is the method. In the space structured ``none`` has the profile's own biases.
Rows of a compensation are written when they are there; the same command goes on.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import SHARED, TEXTS, reference_windows, write_result
from torch import Tensor

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.compensation.compensate import compensate
from unicuco_plugin.compensation.dense_states import DenseStates, run_blocks
from unicuco_plugin.compensation.methods import Compensation
from unicuco_plugin.compensation.parts import compensate_parts
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.halves import HalfRunner, step_names
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.models.parts.reduction import reduced
from unicuco_plugin.objectives.head import DivergenceHead
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.plugins.manager import make_compensation
from unicuco_plugin.request import Request
from unicuco_plugin.scores.ranked_parts import RankedParts
from unicuco_plugin.texts.calibration import load_windows
from unicuco_plugin.texts.selfcalibration import generate_windows
from unicuco_plugin.training.correcting import find_corrections
from unicuco_plugin.traits import traits_of

RESULTS = Path(__file__).parent / "results"
# Budgets of the benchmarks of peers.
BUDGETS = {
    "depth": (0.125, 0.25, 0.36, 0.5),
    "sublayer": (0.1333, 0.2666, 0.4, 0.5),
    "structured": (0.125, 0.25, 0.375, 0.5),
}
# Units and the share of each that goes.
Set = tuple[tuple[str, float], ...]


def find_sets(space: str, profiles: list[Profile], peers: list[str], seeds: list[int]) -> dict[Set, list[str]]:
    """Sets of units with whose answers they are, the smallest first."""
    sets: dict[Set, list[str]] = {}
    for profile in profiles:
        for budget in BUDGETS[space]:
            shares = profile.answer(Request.of(sparsity=budget)).shares
            sets.setdefault(tuple(sorted(shares.items())), []).append(f"profile {profile.name}")
    result = RESULTS / f"peers-{space}.json"
    for row in json.loads(result.read_text(encoding="utf8"))["rows"] if result.exists() else []:
        if row["group"] == "methods" and row["method"] in peers and row["seed"] in seeds:
            shares = dict.fromkeys(row["units"], 1.0)
            sets.setdefault(tuple(sorted(shares.items())), []).append(f"{row['method']} {row['seed']}")
    return dict(sorted(sets.items(), key=lambda item: (len(item[0]), item[0])))


def main() -> None:
    """Measure each set with each compensation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--space", choices=tuple(BUDGETS), default="depth")
    parser.add_argument("--profiles", nargs="*", help="the packaged one of the space by default")
    parser.add_argument("--peers", nargs="*", default=["greedy", "shortgpt", "evopress_super_fast_whole"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the peers' answers")
    parser.add_argument("--compensations", nargs="+", default=["none", "linear", "ridge"])
    parser.add_argument("--units", type=int, nargs="+", help="only sets of so many")
    parser.add_argument("--calibration-windows", type=int, default=128)
    parser.add_argument("--own", type=int, default=0, help="of these, windows that the dense model writes itself")
    parser.add_argument("--windows", type=int, default=16, help="of 512 tokens, of each text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "compensation.json")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    tokens = 512 * asked.calibration_windows
    rows = json.loads(asked.output.read_text(encoding="utf8"))["rows"] if asked.output.exists() else []
    known = {
        (json.dumps(row["removed"]), row["compensation"], row["calibration_tokens"], row.get("own_tokens", 0))
        for row in rows
    }
    packaged = [f"smollm2-135m-instruct-{asked.space}"]
    profiles = [load_profile(name) for name in (packaged if asked.profiles is None else asked.profiles)]
    sets = find_sets(asked.space, profiles, asked.peers, asked.seeds)
    ranked = profiles[0].rank_parts() if traits_of(asked.space).cuts else None
    payload = None if ranked is None else ranked.to_payload()
    decoder = find_decoder(load_model(asked.model, dtype="float32"))
    files = [SHARED / "data" / "text" / f"calib_{name}.txt" for name in ("wikipedia", "webtext")]
    tokenizer, given = load_tokenizer(asked.model), asked.calibration_windows - asked.own
    solve = load_windows(files, tokenizer, count=given, length=512, seed=0)
    if asked.own:
        with tempfile.TemporaryDirectory() as folder:
            how: dict[str, Any] = {"count": asked.own, "length": 512, "seed": 0, "cache_dir": Path(folder)}
            solve = torch.cat([solve, generate_windows(decoder.model, tokenizer, **how)])
        solve = solve[torch.randperm(len(solve), generator=torch.Generator().manual_seed(0))]
    texts = torch.cat([reference_windows(asked.model, text)[: asked.windows] for text in TEXTS])
    for name in asked.compensations:
        missing = [
            units
            for units in sets
            if (json.dumps(short(units)), name, tokens, 512 * asked.own) not in known
            and (not asked.units or len(units) in asked.units)
        ]
        if (method := make_compensation(name)).sequential:
            runner = (BlockRunner if asked.space == "depth" else HalfRunner)(decoder, 512)
            lots = sequentially(runner, missing, ranked, method, windows=solve, texts=texts)
        else:
            corrections = find_corrections(name, decoder, solve, space=asked.space)
            evaluator = UnitsEvaluator(decoder, asked.space, texts, payload=payload, corrections=corrections)
            lots = together(evaluator, missing, all_at_once=ranked is not None)
        for lot in lots:
            for units, per_window in lot:
                row = {
                    "removed": short(units),
                    "answers": sets[units],
                    "compensation": name,
                    "calibration_tokens": tokens,
                }
                if asked.own:
                    row["own_tokens"] = 512 * asked.own
                for place, text in enumerate(TEXTS):
                    own = per_window[place * asked.windows : (place + 1) * asked.windows]
                    row[text] = round(sum(own) / len(own), 4)
                print(row, flush=True)
                rows.append(row)
            write_result(asked.output, {"evaluation_windows": asked.windows, "dtype": "float32", "rows": rows})


def together(
    evaluator: UnitsEvaluator, missing: list[Set], *, all_at_once: bool
) -> Iterator[list[tuple[Set, tuple[float, ...]]]]:
    """Measured with corrections of the dense model's states, in lots.

    Where parts go, all sets have cuts in common, whose moments are large: they pass the blocks together.
    """
    step = max(len(missing), 1) if all_at_once else 1
    for lot in (missing[first : first + step] for first in range(0, len(missing), step)):
        found = evaluator.evaluate([dict(units) for units in lot])
        yield [(units, one.per_window) for units, one in zip(lot, found, strict=True)]


@torch.no_grad()
def sequentially(
    runner: BlockRunner,
    missing: list[Set],
    ranked: RankedParts | None,
    method: Compensation,
    *,
    windows: Tensor,
    texts: Tensor,
) -> Iterator[list[tuple[Set, tuple[float, ...]]]]:
    """Each corrected on its own states and measured, as an export is."""
    decoder, names, entered = runner.decoder, step_names(runner), [runner.embed(batch) for batch in texts.split(8)]
    known, head = find_parts(decoder), DivergenceHead(runner)
    before = torch.cat(run_blocks(runner, range(len(names)), entered))
    for units in missing:
        dense = DenseStates(runner, windows)
        if ranked is None:
            parts, gone = KeptParts({}, {}), {names.index(unit) for unit, _ in units}
            done = compensate(dense, gone, method)
        else:
            kept = ranked.keep(decoder, dict(units))
            gone = {names.index(name) for name in kept.removed if name not in kept.biases}
            done = compensate_parts(dense, kept, method)
            parts = replace(kept, biases={**kept.biases, **done.biases})
        restore = done.fold(decoder, gone if ranked is None else ())
        with reduced(decoder, parts, [known[name] for name in {*parts.kept, *parts.biases}]):
            stays = [place for place in range(len(names)) if place not in gone]
            after = torch.cat(run_blocks(runner, stays, entered))
        restore()
        yield [(units, head.divergences(before, [after])[0])]


def short(units: Set) -> list[str] | dict[str, float]:
    """Units without what all names begin with, in the model's order; with shares where some stay in part."""
    tails = {unit: [part for part in unit.split(".") if part not in ("model", "layers")] for unit, _ in units}
    ordered = sorted(units, key=lambda pair: (int(tails[pair[0]][0]), tails[pair[0]][1:]))
    named = {".".join(tails[unit]): round(share, 4) for unit, share in ordered}
    return named if any(share != 1.0 for share in named.values()) else list(named)


if __name__ == "__main__":
    main()
