"""Processes that torchrun starts end in the checkpoint of one; what one of them alone would decide is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pruning_in_ranks
import pytest
import torch
from llmcompressor.modifiers.pruning import SparseGPTModifier
from scheme_databases import build_schemes
from tiny import VOCABULARY, tiny_model, tiny_tokenizer

from unicuco_plugin import prune
from unicuco_plugin.errors import CalibrationError, ExportError
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.modifiers.toolkit import ranks

WINDOWS = torch.randint(4, VOCABULARY, (6, 16), generator=torch.Generator().manual_seed(1))
RECIPES = (
    "depth", "compensated", "shared", "peer", "stitched", "sparsegpt", "wanda", "stored", "gptq", "divided", "dropped",
)  # fmt: skip


@pytest.fixture(scope="module")
def machine():
    """This one: other processes know nothing of the emulated one."""


@pytest.fixture
def two(monkeypatch):
    """Lets this process be the second of two; returns a list for what the first one has."""
    first = []
    monkeypatch.setattr(ranks, "is_distributed", lambda: True)
    monkeypatch.setattr(ranks, "_gather", lambda own: [first[0], own])
    return first


def batches(windows):
    return [{"input_ids": row[None]} for row in windows]


def test_windows_of_all_ranks_stand_behind_each_other(two):
    two.append(WINDOWS[:4])
    assert torch.equal(ranks.whole_windows(batches(WINDOWS[4:])), WINDOWS)


def test_text_that_all_ranks_have_is_the_text_and_that_is_said(two, caplog):
    said = []
    two.append(WINDOWS)
    handler = ranks.logger.add(said.append, format="{message}")
    try:
        assert torch.equal(ranks.whole_windows(batches(WINDOWS)), WINDOWS)
    finally:
        ranks.logger.remove(handler)
    assert "all 2 ranks calibrate on the same 6 samples" in said[0]


def test_windows_of_several_lengths_are_refused(two):
    two.append(WINDOWS[:, :8])
    with pytest.raises(CalibrationError, match=r"windows of all ranks must have one length, got \[8, 16\]$"):
        ranks.whole_windows(batches(WINDOWS))


def test_one_process_reads_its_own_text_and_agrees_with_itself():
    assert torch.equal(ranks.whole_windows(batches(WINDOWS)), WINDOWS)
    assert ranks.agree("mine") == "mine"
    assert ranks.is_first()


def test_a_pass_that_sums_nothing_over_ranks_is_refused_where_these_have_parts_of_the_text(two):
    two.append("another hash")
    engine = SparseGPTModifier(sparsity=0.5)
    with pytest.raises(CalibrationError, match=r"^SparseGPTModifier sums nothing over 2 ranks: give each the whole"):
        ranks.in_step([engine], (SparseGPTModifier,), batches(WINDOWS))
    assert "on_sequential_epoch_end" not in vars(engine)


def test_a_save_that_fails_on_one_rank_fails_on_all(two, tmp_path, monkeypatch):
    model = tiny_model("llama")
    ranks.save_in_step(model)
    two.append("ExportError: no room")
    with pytest.raises(ExportError, match=r"^rank 0 could not save it: ExportError: no room$"):
        model.save_pretrained(tmp_path / "out", save_compressed=False)
    two[0] = None
    model.save_pretrained(tmp_path / "out", save_compressed=False)
    gathered = []
    monkeypatch.setattr(ranks, "_gather", lambda own: [None, gathered.append(own) or own])
    with pytest.raises(NotADirectoryError):  # a file stands where the folder would be
        model.save_pretrained(tmp_path / "out" / "config.json" / "below", save_compressed=False)
    assert [said.partition(":")[0] for said in gathered] == ["NotADirectoryError"]


def test_one_process_alone_exports(two, tmp_path):
    with pytest.raises(ExportError, match=r"^prune works in one process, .* call llmcompressor\.oneshot"):
        prune("model", "recipe.yaml", tmp_path / "out")


@pytest.mark.slow
def test_checkpoints_of_two_ranks_are_those_of_one_process(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path / "dense")
    tiny_tokenizer(tmp_path / "dense")
    settings = LevelSettings(block_size=16)
    build_levels(find_decoder(model), WINDOWS, tmp_path / "sparsities", name="tiny", settings=settings)
    build_schemes(model, tmp_path / "schemes")
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    script = [pruning_in_ranks.__file__, str(tmp_path)]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    outputs = tmp_path / "alone", tmp_path / "ranks"
    for command, output in (([sys.executable], outputs[0]), (start, outputs[1])):
        done = subprocess.run(
            [*command, *script, str(output), *RECIPES], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    files = [
        {str(file.relative_to(output)): file.read_bytes() for file in output.rglob("*") if file.is_file()}
        for output in outputs
    ]
    assert files[0].keys() == files[1].keys()
    assert {name for name, content in files[0].items() if files[1][name] != content} == set()
    assert {Path(name).parts[0] for name in files[0]} == set(RECIPES)
