"""Do the committed results of ``unicuco benchmark`` repeat? A few rows of each are measured again, on the same windows.

    python benchmarks/repeat.py --rows 3

A plan whose level database is not there is left out, and said so. Killed, the same command goes on from
``OUTPUT.part``. The largest difference that is allowed is what another number of threads makes of bfloat16.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import ROOT, SHARED, write_result

from unicuco_plugin import find_smollm2
from unicuco_plugin.benchmark.plan import BenchmarkPlan, read_plan
from unicuco_plugin.benchmark.quality import Quality
from unicuco_plugin.benchmark.texts import Texts
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model

PLANS = ("peers_depth", "ablations_depth", "windows_depth", "peers_sublayer", "peers_sparsity", "peers_bits")
# Of a text's mean. Measured on the machine of the results it is at most a tenth of this.
ALLOWED = 0.01


def repeat(plan: BenchmarkPlan, rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Measure rows of a result again; each with its committed and its new mean by text."""
    decoder = find_decoder(load_model(plan.model, dtype=plan.dtype, device=plan.device))
    found = []
    with Journal.open(folder / "journal.sqlite", {"space": plan.space}, resume=False) as journal:
        quality = Quality(plan, Texts(plan), decoder, journal)
        for row in rows:
            means = {name: quality.measure(name, row["units"], lambda: None)["mean"] for name in plan.evaluation}
            was = {name: row["divergence"][name]["mean"] for name in means}
            worst = max(abs(means[name] / was[name] - 1.0) for name in means)
            found.append(
                {"method": row["method"], "seed": row["seed"], "budget": row["budget"]} | {"difference": worst}
            )
            print(f"{plan.space} {row['method']} {row['budget']}: {was} again {means}", flush=True)
    return found


def main() -> None:
    """Repeat, write, and fail where a number does not come back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3, help="of each result")
    parser.add_argument("--seed", type=int, default=0, help="which")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "repeat.json")
    arguments = parser.parse_args()
    asked = {"rows": arguments.rows, "seed": arguments.seed}
    part = arguments.output.with_name(f"{arguments.output.name}.part")
    before = json.loads(part.read_text(encoding="utf8")) if part.exists() else {}
    known = before["results"] if before.get("asked") == asked else {}
    results: dict[str, Any] = {name: rows for name, rows in known.items() if isinstance(rows, list)}
    for name in PLANS:
        if name in results:
            continue
        committed = json.loads((ROOT / "benchmarks" / "results" / f"{name.replace('_', '-')}.json").read_text())
        plan = read_plan(ROOT / "benchmarks" / f"{name}.yaml").model_copy(
            update={"model": str(find_smollm2()), "dtype": committed["dtype"]}
        )
        if plan.levels is not None and not Path(plan.levels).exists():
            results[name] = f"left out: no level database {plan.levels}"
            continue
        chosen = torch.randperm(len(committed["rows"]), generator=torch.Generator().manual_seed(arguments.seed))
        rows = [committed["rows"][index] for index in chosen[: arguments.rows]]
        with tempfile.TemporaryDirectory() as folder:
            results[name] = repeat(plan, rows, Path(folder))
        write(part, asked, results)
    write(arguments.output, asked, results)
    part.unlink(missing_ok=True)
    for name, worst in worst_of(results).items():
        if worst > ALLOWED:
            raise SystemExit(f"{name}: a mean differs by {worst:.2%}, more than {ALLOWED:.0%}")


def worst_of(results: dict[str, Any]) -> dict[str, float]:
    """The largest difference of each plan that was measured."""
    measured = {name: rows for name, rows in results.items() if isinstance(rows, list) and rows}
    return {name: max(row["difference"] for row in rows) for name, rows in measured.items()}


def write(output: Path, asked: dict[str, int], results: dict[str, Any]) -> None:
    """Write what is known."""
    facts = {"asked": asked, "threads": torch.get_num_threads(), "texts": SHARED.name}
    write_result(output, facts | {"largest_difference": worst_of(results), "results": results})


if __name__ == "__main__":
    main()
