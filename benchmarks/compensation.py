"""What compensations do to answers for blocks, ours and peers', on the two texts of the reference.

Sets of blocks come from profiles, each at the budgets of ``peers_depth.yaml``, and from the result of that benchmark.
Corrections are solved from calibration text and none is left out (a recipe leaves out what raises the divergence on
windows held out): what stands in a row is the method. Every row is written when it is there; the same command goes on.
"""

import argparse
import json
from pathlib import Path

import torch
from common import SHARED, TEXTS, reference_windows, removed, write_result

from unicuco_plugin.answering import load_profile
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.request import Request
from unicuco_plugin.texts.calibration import load_windows
from unicuco_plugin.training.correcting import find_corrections

RESULTS = Path(__file__).parent / "results"
BUDGETS = (0.125, 0.25, 0.36, 0.5)


def find_sets(profiles: list[str], peers: list[str]) -> dict[tuple[int, ...], list[str]]:
    """Sets of blocks with whose answers they are, the smallest first."""
    sets: dict[tuple[int, ...], list[str]] = {}
    for source in profiles:
        profile = load_profile(source)
        for budget in BUDGETS:
            sets.setdefault(removed(profile.answer(Request.of(sparsity=budget))), []).append(f"profile {profile.name}")
    for row in json.loads((RESULTS / "peers-depth.json").read_text(encoding="utf8"))["rows"]:
        if row["group"] == "methods" and row["method"] in peers:
            gone = tuple(sorted(int(name.rpartition(".")[2]) for name in row["units"]))
            sets.setdefault(gone, []).append(f"{row['method']} {row['seed']}")
    return dict(sorted(sets.items(), key=lambda item: (len(item[0]), item[0])))


def main() -> None:
    """Measure each set with each compensation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profiles", nargs="*", default=["smollm2-135m-instruct-depth"])
    parser.add_argument("--peers", nargs="*", default=["greedy", "shortgpt", "evopress_super_fast_whole"])
    parser.add_argument("--compensations", nargs="+", default=["none", "linear", "ridge"])
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 8, 11, 15])
    parser.add_argument("--calibration-windows", type=int, default=64)
    parser.add_argument("--windows", type=int, default=16, help="of 512 tokens, of each text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "compensation.json")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    facts = {"calibration_tokens": 512 * asked.calibration_windows, "evaluation_windows": asked.windows}
    rows = json.loads(asked.output.read_text(encoding="utf8"))["rows"] if asked.output.exists() else []
    known = {(tuple(row["removed"]), row["compensation"]) for row in rows}
    decoder = find_decoder(load_model(asked.model, dtype="float32"))
    files = [SHARED / "data" / "text" / f"calib_{name}.txt" for name in ("wikipedia", "webtext")]
    solve = load_windows(files, load_tokenizer(asked.model), count=asked.calibration_windows, length=512, seed=0)
    texts = torch.cat([reference_windows(asked.model, text)[: asked.windows] for text in TEXTS])
    sets = {gone: whose for gone, whose in find_sets(asked.profiles, asked.peers).items() if len(gone) in asked.blocks}
    for name in asked.compensations:
        corrections = find_corrections(name, decoder, solve)
        evaluator = BlockEvaluator(decoder, texts, corrections=corrections)
        for gone, whose in sets.items():
            if (gone, name) in known:
                continue
            [found] = evaluator.evaluate([gone])
            row = {"blocks": len(gone), "removed": list(gone), "answers": whose, "compensation": name}
            for place, text in enumerate(TEXTS):
                own = found.per_window[place * asked.windows : (place + 1) * asked.windows]
                row[text] = round(sum(own) / len(own), 4)
            print(row, flush=True)
            rows.append(row)
            write_result(asked.output, facts | {"dtype": "float32", "rows": rows})


if __name__ == "__main__":
    main()
