"""One checkpoint size after another: bits and blocks from one policy, bits alone, and four bits on other answers.

The others are a depth profile's and a structured profile's. Structured ones are cut from the dense model's four-bit
weights as they are decoded, with the profile's biases; their bytes are counted as if every weight that is left took as
many bits as before, which is a little less than groups across cuts would.


From the repository's root, with a database of schemes in groups of 64 and profiles of the two spaces on it:
    unicuco train --model MODEL --space compound --dtype float32 --levels DIR --calibration ... --output runs/compound
    unicuco train --model MODEL --space precision --dtype float32 --levels DIR --calibration ... --output runs/precision
    python benchmarks/compound.py --model MODEL --levels DIR --compound runs/compound --precision runs/precision
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import ROOT, TEXTS, reference_windows, write_result

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.errors import RequestError, StrategyError
from unicuco_plugin.evaluation.comparison import compare_models
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.objectives.units import UnitsEvaluator

MEGABYTE = 10**6
SIZES = (100, 90, 80, 70, 60, 50)
FOUR, BITS = "W4A16:g64", 4.25
# Of the bisection of a share: parts are thousands.
STEPS = 14


def four_bits_and_depth(compound: Profile, depth: Profile, limit: int) -> dict[str, Any]:
    """The answer of a depth profile with the fewest blocks gone that, in four bits, has at most so many bytes.

    Raises:
        RequestError: If no answer is so small.
    """
    space = compound.search_space
    for gone in ({}, *(depth.answer(sparsity=budget).units for budget in depth.search_space.budgets)):
        kept = [unit for unit in space.units if not unit.startswith(tuple(f"{block}." for block in gone))]
        units = {**gone, **dict.fromkeys(kept, FOUR)}
        size = int(compound.costs.of("bytes", space.from_units(units)[None]))
        if size <= limit:
            return {"units": units, "bytes": size}
    raise RequestError(f"max_bytes must be at least {size}, the last of {depth.name} in four bits, got {limit}")


def four_bits_and_parts(compound: Profile, structured: Profile, limit: int) -> dict[str, Any]:
    """The answer of a structured profile that loses least and has, in four bits, at most so many bytes.

    Raises:
        RequestError: If no answer is so small.
    """
    space = compound.search_space
    stored = dict.fromkeys(space.units, FOUR)
    whole = int(compound.costs.of("bytes", space.from_units(stored)[None]))
    weights = sum(compound.costs.table.unit_params)
    rest = whole - weights * BITS / 8
    total = structured.costs.table.total_params
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        share = (low + high) / 2
        low, high = (
            (low, share) if rest + (weights - total + _left(structured, share)) * BITS / 8 <= limit else (share, high)
        )
    found = structured.answer(sparsity=high)
    return {"units": found.units, "bytes": round(rest + (weights - total + found.params) * BITS / 8), "parts": True}


def _left(structured: Profile, share: float) -> int:
    return structured.answer(sparsity=share).params


def measure_parts(model: str, levels: SchemeLevels, structured: Profile, rows: list[dict[str, Any]]) -> None:
    """Cut the four-bit model as each row says, and compare it with the dense one."""
    dense = load_model(model, dtype="float32")
    for row in rows:
        changed = load_model(model, dtype="float32")
        with torch.no_grad():
            for name, linear in find_decoder(changed).all_linears().items():
                linear.weight.copy_(levels.decode(name, FOUR))
        apply_parts(changed, structured.rank_parts().keep(find_decoder(changed), row["units"]))
        for text in TEXTS:
            found = compare_models(dense, changed, reference_windows(model, text)).divergence
            row[text] = None if found is None else found.mean


def answer(profile: Profile, limit: int) -> dict[str, Any]:
    """What a profile answers to a limit on bytes.

    Raises:
        RequestError: If it cannot be met.
    """
    found = profile.answer(max_bytes=limit)
    known = found.divergence
    return {
        "units": found.units,
        "bytes": found.bytes,
        "bits": found.bits,
        "source": found.source,
        "promised": None if known is None else [known.mean, *known.interval90, known.measured],
    }


def main() -> None:
    """Answer, measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--levels", required=True)
    parser.add_argument("--compound", required=True, help="a profile of the space compound on these levels")
    parser.add_argument("--precision", help="a profile of the space precision on these levels")
    parser.add_argument("--depth", default="smollm2-135m-instruct-depth")
    parser.add_argument("--structured", default="smollm2-135m-instruct-structured")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of checkpoints, in MB of 10^6 bytes")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/compound.json")
    options = parser.parse_args()
    compound, depth = load_profile(options.compound), load_profile(options.depth)
    structured = load_profile(options.structured)
    methods: dict[str, Callable[[int], dict[str, Any]]] = {"compound": lambda limit: answer(compound, limit)}
    if options.precision:
        precision = load_profile(options.precision)
        methods["precision"] = lambda limit: answer(precision, limit)
    methods["four_bits_and_depth"] = lambda limit: four_bits_and_depth(compound, depth, limit)
    methods["four_bits_and_structured"] = lambda limit: four_bits_and_parts(compound, structured, limit)
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        for name, method in methods.items():
            try:
                rows.append({"megabytes": size, "method": name, **method(size * MEGABYTE)})
            except (RequestError, StrategyError) as error:
                rows.append({"megabytes": size, "method": name, "refused": str(error)})
    decoder = find_decoder(load_model(options.model, dtype="float32"))
    levels = SchemeLevels.open(options.levels)
    measure_parts(options.model, levels, structured, [row for row in rows if row.pop("parts", False)])
    found = [row for row in rows if "units" in row and TEXTS[0] not in row]
    for text in TEXTS:
        evaluator = UnitsEvaluator(decoder, "compound", reference_windows(options.model, text), levels=levels)
        for row, measured in zip(found, evaluator.evaluate([row["units"] for row in found]), strict=True):
            row[text] = measured.value
    for row in rows:
        if "refused" in row:
            print(row["megabytes"], row["method"], row["refused"])
            continue
        gone = [unit for unit, own in row["units"].items() if own == 1.0]
        row["gone"] = len(gone)
        print(row["megabytes"], row["method"], row["bytes"], len(gone), *(round(row[text], 4) for text in TEXTS))
    facts = {"model": compound.model.name, "levels": levels.record.identity, "megabyte": MEGABYTE}
    write_result(options.output, {**facts, "rows": rows})


if __name__ == "__main__":
    main()
