"""Files of EvoPress, and the YAML of benchmarks and recipes."""

import json

import yaml
from judging import fuzz
from mutations import mutate_bytes, mutate_json, mutate_text

from unicuco_plugin.benchmark.plan import read_plan
from unicuco_plugin.modifiers.recipe import check_recipe
from unicuco_plugin.peers.evopress_files import read_either

DROPS = "none\nattn\nmlp\nattn+mlp\n" * 4
LEVELS = "\n".join(f"model.layers.{index}.mlp.up_proj: {index - 3}" for index in range(7))
PLAN = {
    "model": "m", "calibration": {"sources": ["a.txt"], "windows": 2, "seq_length": 16},
    "evaluation": {"b": {"sources": ["b.txt"], "windows": 2, "seq_length": 16}}, "budgets": [0.25, 0.5],
    "seeds": [0, 1], "train": {"initial": 8}, "methods": {"ours": {"train": {}}, "peer": {"peer": "shortgpt"}},
    "ablations": {"bound": {"none": {"bound": "none"}}},
}  # fmt: skip
RECIPE = """\
pruning_stage:
  pruning_modifiers:
    SparsityProfileModifier:
      profile: smollm2-135m-instruct-sparsity
      request: {sparsity: 0.5}
    SparseGPTModifier: {sparsity: 0.5, mask_structure: '0:0', targets: ['re:.*q_proj', Linear], ignore: [lm_head]}
quantization_stage:
  quantization_modifiers:
    GPTQModifier:
      ignore: [lm_head]
      config_groups: {g: {targets: [Linear], weights: {num_bits: 4, type: int, strategy: group, group_size: 128}}}
    MagnitudePruningModifier:
      {start: 0.0, end: 1.0, init_sparsity: 0.1, final_sparsity: 0.5, targets: ['re:.*weight'], update_scheduler: cubic}
"""


def test_what_is_changed_is_right_before(tmp_path):
    for name, text, read in (
        ("drops.txt", DROPS, read_either),
        ("levels.txt", LEVELS, read_either),
        ("plan.yaml", yaml.safe_dump(PLAN), read_plan),
        ("recipe.yaml", RECIPE, check_recipe),
    ):
        (tmp_path / name).write_text(text, encoding="utf8")
        read(tmp_path / name)


@fuzz(200)
def test_files_of_evopress(judge, draw):
    path = judge.folder / "file.txt"
    text = draw.choice([DROPS, LEVELS])
    path.write_bytes(mutate_text(text, draw).encode() if draw.random() < 0.7 else mutate_bytes(text.encode(), draw))
    judge(lambda: read_either(path))


@fuzz(150)
def test_benchmarks(judge, draw):
    path = judge.folder / "plan.yaml"
    content = mutate_json(PLAN, draw)
    text = json.dumps(content) if draw.random() < 0.6 else mutate_text(yaml.safe_dump(PLAN), draw)
    path.write_bytes(text.encode("utf8", "surrogatepass"))
    judge(lambda: read_plan(path), lambda plan: list(plan.cells()))


@fuzz(200)
def test_recipes(judge, draw):
    path = judge.folder / "recipe.yaml"
    content = yaml.safe_load(RECIPE)
    text = json.dumps(mutate_json(content, draw)) if draw.random() < 0.5 else mutate_text(RECIPE, draw)
    path.write_bytes(text.encode("utf8", "surrogatepass"))
    judge(lambda: check_recipe(path))
