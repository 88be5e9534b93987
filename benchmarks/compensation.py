"""What compensations do to answers for blocks or halves of them, ours and peers', on the two texts of the reference.

Sets of units come from profiles, each at the budgets of the benchmark of peers, and from the result of that benchmark.
Corrections are solved from calibration text and none is left out (a recipe leaves out what raises the divergence on
windows held out): what stands in a row is the method. Every row is written when it is there; the same command goes on.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from common import SHARED, TEXTS, reference_windows, write_result

from unicuco_plugin.answering import load_profile
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.request import Request
from unicuco_plugin.texts.calibration import load_windows
from unicuco_plugin.training.correcting import find_corrections
from unicuco_plugin.traits import traits_of

RESULTS = Path(__file__).parent / "results"
# Budgets of the benchmarks of peers.
BUDGETS = {"depth": (0.125, 0.25, 0.36, 0.5), "sublayer": (0.1333, 0.2666, 0.4, 0.5)}


def find_sets(space: str, profiles: list[str], peers: list[str], seeds: list[int]) -> dict[tuple[str, ...], list[str]]:
    """Sets of units with whose answers they are, the smallest first."""
    sets: dict[tuple[str, ...], list[str]] = {}
    for source in profiles:
        profile = load_profile(source)
        for budget in BUDGETS[space]:
            units = tuple(sorted(profile.answer(Request.of(sparsity=budget)).units))
            sets.setdefault(units, []).append(f"profile {profile.name}")
    for row in json.loads((RESULTS / f"peers-{space}.json").read_text(encoding="utf8"))["rows"]:
        if row["group"] == "methods" and row["method"] in peers and row["seed"] in seeds:
            sets.setdefault(tuple(sorted(row["units"])), []).append(f"{row['method']} {row['seed']}")
    return dict(sorted(sets.items(), key=lambda item: (len(item[0]), item[0])))


def main() -> None:
    """Measure each set with each compensation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--space", choices=tuple(BUDGETS), default="depth")
    parser.add_argument("--profiles", nargs="*", default=["smollm2-135m-instruct-depth"])
    parser.add_argument("--peers", nargs="*", default=["greedy", "shortgpt", "evopress_super_fast_whole"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the peers' answers")
    parser.add_argument("--compensations", nargs="+", default=["none", "linear", "ridge"])
    parser.add_argument("--units", type=int, nargs="+", help="only sets of so many")
    parser.add_argument("--calibration-windows", type=int, default=128)
    parser.add_argument("--windows", type=int, default=16, help="of 512 tokens, of each text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "compensation.json")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    tokens = 512 * asked.calibration_windows
    rows = json.loads(asked.output.read_text(encoding="utf8"))["rows"] if asked.output.exists() else []
    known = {(tuple(row["removed"]), row["compensation"], row["calibration_tokens"]) for row in rows}
    sets = find_sets(asked.space, asked.profiles, asked.peers, asked.seeds)
    decoder = find_decoder(load_model(asked.model, dtype="float32"))
    files = [SHARED / "data" / "text" / f"calib_{name}.txt" for name in ("wikipedia", "webtext")]
    solve = load_windows(files, load_tokenizer(asked.model), count=asked.calibration_windows, length=512, seed=0)
    texts = torch.cat([reference_windows(asked.model, text)[: asked.windows] for text in TEXTS])
    for name in asked.compensations:
        corrections = find_corrections(name, decoder, solve, halves=traits_of(asked.space).halves)
        evaluator = UnitsEvaluator(decoder, asked.space, texts, corrections=corrections)
        for units, whose in sets.items():
            gone = short(units)
            if (gone, name, tokens) in known or (asked.units and len(units) not in asked.units):
                continue
            [found] = evaluator.evaluate([dict.fromkeys(units, 1.0)])
            row = {"removed": list(gone), "answers": whose, "compensation": name, "calibration_tokens": tokens}
            for place, text in enumerate(TEXTS):
                own = found.per_window[place * asked.windows : (place + 1) * asked.windows]
                row[text] = round(sum(own) / len(own), 4)
            print(row, flush=True)
            rows.append(row)
            write_result(asked.output, {"evaluation_windows": asked.windows, "dtype": "float32", "rows": rows})


def short(units: Sequence[str]) -> tuple[str, ...]:
    """Units without what all names begin with, in the model's order: ``14``, ``14.mlp``."""
    tails = [[part for part in unit.split(".") if part not in ("model", "layers")] for unit in units]
    return tuple(".".join(tail) for tail in sorted(tails, key=lambda tail: (int(tail[0]), tail[1:])))


if __name__ == "__main__":
    main()
