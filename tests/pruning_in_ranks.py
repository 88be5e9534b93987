"""Runs recipes by llm-compressor's own entry point, in one process or under torchrun, and saves what comes of them.

Arguments: a folder with ``dense`` and the level databases ``sparsities`` and ``schemes``, where to save, and recipes.
"""

import os
import sys
from pathlib import Path

import torch
from compressed_tensors.offload import load_offloaded_model
from depth_strategies import whole_block_strategy
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from scheme_strategies import scheme_strategy, scheme_units
from sparsity_strategies import sparsity_strategy
from tiny import VOCABULARY
from torch import distributed as dist
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.modifiers.toolkit.log import set_toolkit_verbosity

WINDOWS = torch.randint(4, VOCABULARY, (8, 16), generator=torch.Generator().manual_seed(0))
# Recipes of which each rank reads all of the text.
WHOLE = ("sparsegpt", "wanda", "gptq", "dropped")


def recipe_of(name, model, folder):
    """The modifiers of a recipe, of which the first is ours."""
    depth = {"strategy": whole_block_strategy(model).to_dict()}
    zeros = {"strategy": sparsity_strategy(model).to_dict()}
    units = scheme_units(model, "W8A16:channel", "W4A16:channel", None)
    bits = {"strategy": scheme_strategy(model, units).to_dict()}
    fields, *others = {
        "depth": [depth],
        "compensated": [depth | {"compensation": "linear"}],
        "shared": [depth | {"compensation": "linear"}],
        "peer": [{"peer": "shortgpt", "request": {"sparsity": 0.3}}],
        "stitched": [zeros | {"levels": str(folder / "sparsities")}],
        "sparsegpt": [zeros, SparseGPTModifier(sparsity=0.5, ignore=["lm_head"])],
        "wanda": [zeros, WandaPruningModifier(sparsity=0.5, ignore=["lm_head"])],
        "stored": [bits | {"levels": str(folder / "schemes")}],
        "gptq": [bits, GPTQModifier(ignore=["lm_head"])],
        "divided": [bits, GPTQModifier(ignore=["lm_head"])],
        "dropped": [depth, GPTQModifier(targets=["Linear"], scheme="W8A8", ignore=["lm_head"])],
    }[name]
    return [SparsityProfileModifier(**fields), *others]


def part(windows=WINDOWS, *, whole):
    """What a rank calibrates on: all windows, or its own."""
    rank, count = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    ids = windows if whole else windows.chunk(count)[rank]
    rows = [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in ids]
    return DataLoader(rows, batch_size=None)


def load(folder, name):
    """The dense model: a copy for each rank, or weights that all of them share on the disk."""
    if name != "shared":
        return AutoModelForCausalLM.from_pretrained(folder / "dense")
    where = {"device_map": {"": "disk"}, "offload_folder": str(folder / "offloaded"), "max_memory": {"cpu": 2**30}}
    with load_offloaded_model():
        return AutoModelForCausalLM.from_pretrained(folder / "dense", **where)


def run(folder, output, name):
    model = load(folder, name)
    tokenizer = AutoTokenizer.from_pretrained(folder / "dense")
    data = part(whole=name in WHOLE)
    oneshot(model=model, recipe=recipe_of(name, model, folder), tokenizer=tokenizer, dataset=data)
    model.save_pretrained(output / name, save_compressed=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    set_toolkit_verbosity(verbose=False)
    folder, output, *names = sys.argv[1:]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    for name in names:
        run(Path(folder), Path(output), name)
    if dist.is_initialized():
        dist.destroy_process_group()
