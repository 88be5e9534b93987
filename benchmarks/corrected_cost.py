"""Seconds a candidate of a search with a compensation, beside the same candidates without.

    python benchmarks/corrected_cost.py --model MODEL --profile runs/structured-ridge

The candidates are the first ``--count`` that the profile's own search measured, in its order and its batches, on as
many tokens and with as many calibration windows; ``--profile`` was trained with a compensation. Both ways are measured
in one process, one batch after the other, so corrections are solved as the search met them: most early ones for the
first time. The dense model's states are not counted, which a search runs once.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from common import ROOT, SHARED, write_result

from unicuco_plugin.answering import load_profile
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.texts.calibration import load_windows
from unicuco_plugin.training.correcting import find_corrections
from unicuco_plugin.traits import traits_of


def main() -> None:
    """Measure both ways and write what each takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--calibration-windows", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "corrected-cost.json")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    profile = load_profile(asked.profile)
    settings, space = profile.provenance["settings"], profile.search_space
    length, tokens, batch = settings["rank_seq_length"], settings["rank_tokens"], settings["batch"]
    decoder, tokenizer = find_decoder(load_model(asked.model, dtype="float32")), load_tokenizer(asked.model)
    files = [SHARED / "data" / "text" / f"calib_{name}.txt" for name in ("wikipedia", "webtext")]
    windows = load_windows(files, tokenizer, count=tokens // length, length=length, seed=0)
    solve = load_windows(files, tokenizer, count=asked.calibration_windows, length=512, seed=1)
    archive = [entry for entry in profile.record.archive if entry.measured][: asked.count]
    searched = [dict(space.to_units(space.parse(entry.strategy))) for entry in archive]
    payload = profile.rank_parts().to_payload() if traits_of(space.name).cuts else None
    corrections = find_corrections(profile.provenance["compensation"]["name"], decoder, solve, space=space.name)
    assert corrections is not None, "the profile names no compensation"
    corrections.prepare()
    ways = {
        name: UnitsEvaluator(decoder, space.name, windows, payload=payload, corrections=one)
        for name, one in (("plain", None), ("corrected", corrections))
    }
    for way in ways.values():
        way.evaluate([searched[0]])
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for part in (searched[first : first + batch] for first in range(0, len(searched), batch)):
        for name, way in ways.items():
            started = time.perf_counter()
            way.evaluate(part)
            seconds[name].append(round((time.perf_counter() - started) / len(part), 3))
        print({name: found[-1] for name, found in seconds.items()}, flush=True)
    result: dict[str, Any] = {
        "space": space.name,
        "compensation": corrections.name,
        "candidates": len(searched),
        "tokens_per_candidate": tokens,
        "calibration_tokens": solve.numel(),
        "seconds_per_candidate": {name: round(sum(found) / len(found), 3) for name, found in seconds.items()},
        "corrected_over_plain": round(sum(seconds["corrected"]) / sum(seconds["plain"]), 3),
        "by_batch": seconds,
    }
    print(result)
    write_result(asked.output, result)


if __name__ == "__main__":
    main()
