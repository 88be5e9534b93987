"""Recipes of llm-compressor's own entry point in one process, and by two ranks under torchrun: the same checkpoints.

    OMP_NUM_THREADS=1 python benchmarks/rank_recipes.py --output benchmarks/results/rank-recipes.json

Of every tiny family of the tests, and of SmolLM2: depth, sparsity by SparseGPT, and bits by GPTQ on the whole text
(``gptq``) and on a part for each rank (``divided``), in float32. A row has the files of a checkpoint whose bytes
differ, and of what differs in weights how much: ``words``, elements that are otherwise, of ``elements``; packed codes
are several to one. Sums over two parts of a text are rounded otherwise, and GPTQ hands every difference on: so
``control`` says what one process makes of the same text in another order. Gloo on the processor.
"""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import ROOT, SHARED, write_result
from llmcompressor import oneshot
from llmcompressor.core import reset_session
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.pruning import SparseGPTModifier
from safetensors.torch import load_file
from torch import distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer

from unicuco_plugin.errors import UnicucoError
from unicuco_plugin.models.checkpoints.demo import find_smollm2
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.modifiers.toolkit.log import set_toolkit_verbosity
from unicuco_plugin.texts.calibration import load_windows

RECIPES = ("depth", "sparsegpt", "gptq", "divided")
REORDERED = "reordered"
REAL = "smollm2-135m-instruct"
WINDOWS, LENGTH = 8, 128  # of SmolLM2's text


def real_recipe(name: str) -> list[Any]:
    """The modifiers of a recipe for SmolLM2; profiles that are packaged answer."""
    bits = "precision", {"bits": 4.5}, [GPTQModifier(ignore=["lm_head"])]
    zeros = "sparsity", {"sparsity": 0.5}, [SparseGPTModifier(sparsity=0.5, ignore=["lm_head"])]
    space, asked, engines = {"depth": ("depth", {"sparsity": 0.25}, []), "sparsegpt": zeros}.get(name, bits)
    return [SparsityProfileModifier(profile=f"{REAL}-{space}", request=asked), *engines]


def carry_out(folder: Path, output: Path, wanted: Sequence[tuple[str, str]]) -> None:
    """Run recipes on models, each a family and a name; as one of several ranks, where there are such."""
    for family, name in wanted:
        try:
            model, recipe, data, tokenizer = _prepare(folder / family, name)
            oneshot(model=model, recipe=recipe, tokenizer=tokenizer, dataset=data)
            model.save_pretrained(output / family / name, save_compressed=True)
        except (UnicucoError, ValueError) as error:  # on every rank alike
            reset_session()
            (output / family).mkdir(parents=True, exist_ok=True)
            (output / family / f"{name}.txt").write_text(" ".join(str(error).split()), encoding="utf8")


def _prepare(dense: Path, name: str) -> tuple[Any, list[Any], Any, Any]:
    """A model, the modifiers of a recipe, its text and a tokenizer."""
    tests = importlib.import_module("pruning_in_ranks")
    model = AutoModelForCausalLM.from_pretrained(dense, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(dense)
    if dense.name != REAL:
        return model, tests.recipe_of(name, model, dense), tests.part(whole=name in tests.WHOLE), tokenizer
    files = [SHARED / "data" / "text" / "calib_wikipedia.txt"]
    ids = load_windows(files, tokenizer, count=WINDOWS, length=LENGTH, seed=0)
    data = tests.part(ids.flip(0) if name == REORDERED else ids, whole=name != "divided")
    return model, real_recipe(name), data, tokenizer


def compare(alone: Path, ranks: Path) -> dict[str, Any]:
    """Files of two folders that differ, and elements of their weights that do."""
    files = [
        {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (alone, ranks)
    ]
    names = sorted({name for one in files for name in one if files[0].get(name) != files[1].get(name)})
    found: dict[str, Any] = {"files": len(files[0]), "differ": names}
    if "model.safetensors" in names:
        one, other = (load_file(folder / "model.safetensors") for folder in (alone, ranks))
        found["elements"] = sum(tensor.numel() for tensor in one.values())
        found["words"] = sum(int((tensor != other[key]).sum()) for key, tensor in one.items())
    return found


def prepare(folder: Path, families: Sequence[str], tiny: Any) -> None:
    """Write the models."""
    for family in families:
        if family == REAL:
            (folder / family).symlink_to(find_smollm2())
        else:
            tiny.tiny_model(family).save_pretrained(folder / family)
            tiny.tiny_tokenizer(folder / family)


def run_all(folder: Path, output: Path, families: Sequence[str], recipes: Sequence[str], ranks: int = 1) -> None:
    """Carry out recipes in one process, or under torchrun."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    script = [str(Path(__file__).resolve()), "--carry-out", str(folder), str(output)]
    command = [sys.executable, *torchrun, *script, "--families", *families, "--recipes", *recipes]
    subprocess.run(command, check=True)


def main() -> None:
    """Prepare models, run all recipes twice, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", help="all, and SmolLM2, by default")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "rank-recipes.json")
    parser.add_argument("--carry-out", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    tiny = importlib.import_module("tiny")
    families = args.families or [*tiny.FAMILIES, REAL]
    wanted = [(family, name) for family in families for name in args.recipes]
    if args.carry_out:
        torch.set_num_threads(1)
        set_toolkit_verbosity(verbose=False)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            dist.init_process_group("gloo")
        folder, output = args.carry_out
        carry_out(folder, output, wanted)
        if dist.is_initialized():
            dist.destroy_process_group()
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, families, tiny)
        outputs = folder / "alone", folder / "ranks"
        run_all(folder, outputs[0], families, args.recipes)
        run_all(folder, outputs[1], families, args.recipes, ranks=2)
        rows = []
        for family, name in wanted:
            said = outputs[0] / family / f"{name}.txt"
            if said.exists():
                both = (outputs[1] / family / said.name).exists()
                row = {"refused": said.read_text(encoding="utf8"), "ranks": "refused" if both else "carried out"}
            else:
                row = compare(outputs[0] / family / name, outputs[1] / family / name)
            rows.append({"model": family, "recipe": name} | row)
            print(rows[-1])
        control = {}
        if {REAL, "gptq"} <= {*families, *args.recipes}:
            run_all(folder, outputs[0], [REAL], [REORDERED])
            control = {"control": compare(outputs[0] / REAL / "gptq", outputs[0] / REAL / REORDERED)}
    same, refused = sum(row.get("differ") == [] for row in rows), sum("refused" in row for row in rows)
    facts = {"ranks": 2, "dtype": "float32", "same": same, "refused": refused, "of": len(rows)}
    shown = [] if args.families is None else ["--families", *args.families]
    write_result(args.output, facts | control | {"rows": rows}, shown)


if __name__ == "__main__":
    main()
