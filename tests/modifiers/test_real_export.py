"""SmolLM2-135M with eight of its thirty blocks dropped, from a strategy file to a fresh process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from depth_strategies import whole_block_strategy

from unicuco_plugin.models.loading import load_model
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier

pytestmark = pytest.mark.slow


@torch.no_grad()
def test_smollm2_is_pruned_exported_reloaded_and_generates_with_its_cache(smollm2, strategy_file, token_ids, tmp_path):
    strategy = whole_block_strategy(load_model(smollm2), (4, 8, 12, 15, 18, 21, 24, 26))
    done = prune_with_recipe(smollm2, SparsityProfileModifier(strategy=strategy_file(strategy)), tmp_path / "out")
    in_memory = done.model(token_ids).logits[0].float()
    fresh = Path(__file__).with_name("fresh_process.py")
    run = subprocess.run([sys.executable, fresh, done.path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    [found] = json.loads(run.stdout).values()
    assert (found["blocks"], found["missing"], found["unexpected"]) == (22, [], [])
    torch.testing.assert_close(torch.tensor(found["logits"]), in_memory, rtol=0, atol=0)
    assert found["cached"] == found["uncached"]
