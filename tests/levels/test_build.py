"""A database built whole, in two goes, after a kill; and what is refused before anything is computed."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as tf
from broken_builds import BoomError, built_in_two_goes, contents
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier
from llmcompressor.modifiers.pruning.sparsegpt.sgpt_sparsify import sparsify_weight
from tiny import tiny_mamba, tiny_model, tiny_tokenizer
from tiny_moe import tiny_mixture

from unicuco_plugin.errors import LevelsError, UnsupportedModelError
from unicuco_plugin.levels import build as building
from unicuco_plugin.levels import stream
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.experts import as_linears
from unicuco_plugin.levels.gather import gather_hessians
from unicuco_plugin.levels.record import RECORD, read_record, write_record
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.loading import load_model


def test_a_linear_that_no_token_reaches_has_no_levels_and_a_resumed_build_knows(tmp_path):
    decoder, told = find_decoder(tiny_mamba()), []
    windows = torch.randint(4, 128, (4, 16), generator=torch.Generator().manual_seed(0))
    settings = LevelSettings(sparsities=(0.5, 0.7))
    levels = build_levels(
        decoder,
        windows,
        tmp_path / "levels",
        name="mamba",
        settings=settings,
        progress=lambda event: told.append(event.message),
    )
    unreached = [f"backbone.layers.{index}.mixer.dt_proj" for index in range(2)]
    assert set(decoder.all_linears()) - set(levels.sizes) == set(unreached)
    assert [f"{name}: no token reached it, so it stays dense and has no levels" for name in unreached] == [
        text for text in told if "no token" in text
    ]
    again = build_levels(decoder, windows, tmp_path / "levels", name="mamba", settings=settings, resume=True)
    assert again.sizes == levels.sizes


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi3"])
@pytest.mark.parametrize("inputs", ["dense", "pruned"])
def test_every_linear_of_a_family_is_stored_at_every_level(family, inputs, windows, tmp_path):
    model = tiny_model(family, blocks=2)
    decoder = find_decoder(model)
    before = str(fingerprint(model))
    settings = LevelSettings(sparsities=(0.4, 0.7), block_size=16, inputs=inputs)
    levels = build_levels(decoder, windows, tmp_path / "db", name=family, settings=settings)
    assert str(fingerprint(model)) == before
    levels.check_model(before)
    levels.verify()
    linears = decoder.linears(0) | decoder.linears(1)
    assert list(levels.sizes) == list(linears)
    for name, linear in linears.items():
        for level, sparsity in enumerate((0.4, 0.7), start=1):
            weight = levels.linear(name).decode(level)
            assert weight.shape == linear.weight.shape
            blocks = [block.numel() for block in weight.split(16, dim=1)]
            assert int((weight == 0).sum()) == sum(int(numel * sparsity) + 1 for numel in blocks)
            assert levels.record.linears[name].zeros[level - 1] == int((weight == 0).sum())


@pytest.mark.slow
def test_a_level_is_what_the_toolkit_makes_of_the_dense_models_inputs(decoder, levels, windows, settings):
    runner = BlockRunner(decoder, windows.shape[1])
    states = torch.cat([runner.embed(part) for part in windows.split(4)])
    for index in range(2):
        found, states = gather_hessians(runner, index, states, settings.batch_windows)
        for name, linear in decoder.linears(index).items():
            H = found.sums[found.leaders[name]][0]
            for level, sparsity in enumerate(settings.sparsities, start=1):
                loss, weight = sparsify_weight(linear, {linear: H.clone()}, sparsity, 0, 0, 20, 1e-2, False)
                mine = levels.linear(name)
                assert torch.equal(mine.decode(level) == 0, weight == 0)
                assert mine.losses[level].sum().item() == pytest.approx(loss, rel=1e-4)


def test_inputs_that_carry_the_pruning_error_change_later_blocks_only(decoder, levels, windows, settings, tmp_path):
    pruned = build_levels(
        decoder, windows, tmp_path / "db", name="tiny", settings=settings.model_copy(update={"inputs": "pruned"})
    )
    same = {name: contents(levels.folder)[name] == checksum for name, checksum in contents(pruned.folder).items()}
    assert all(equal is ("layers.0" in name) for name, equal in same.items())


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["dense", "pruned"])
@pytest.mark.parametrize("linears", [0, 1, 5, 7, 11])
def test_a_build_that_was_broken_off_ends_as_an_unbroken_one(
    *, inputs, linears, decoder, windows, settings, tmp_path, monkeypatch
):
    arguments = {"name": "tiny", "settings": settings.model_copy(update={"inputs": inputs})}
    whole = build_levels(decoder, windows, tmp_path / "whole", **arguments)
    again = built_in_two_goes(monkeypatch, linears, decoder, windows, tmp_path / "broken", **arguments)
    assert contents(again.folder) == contents(whole.folder)
    assert again.record.model_copy(update={"seconds": 0.0}) == whole.record.model_copy(update={"seconds": 0.0})


def test_resuming_a_finished_build_computes_nothing(decoder, windows, settings, tmp_path, monkeypatch):
    arguments = {"name": "tiny", "settings": settings}
    first = build_levels(decoder, windows, tmp_path / "db", **arguments)
    monkeypatch.setattr(stream, "BlockRunner", None)
    again = build_levels(decoder, windows, tmp_path / "db", **arguments, resume=True)
    assert again.record == first.record


def test_a_file_that_was_damaged_meanwhile_is_solved_again(decoder, windows, settings, tmp_path):
    arguments = {"name": "tiny", "settings": settings}
    first = contents(build_levels(decoder, windows, tmp_path / "db", **arguments).folder)
    victim = tmp_path / "db" / "model.layers.0.mlp.up_proj.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x55")
    told = []
    build_levels(decoder, windows, tmp_path / "db", **arguments, resume=True, progress=told.append)
    assert contents(tmp_path / "db") == first
    messages = [event.message for event in told if event.message]
    assert len(messages) == 2
    assert messages[1].startswith("1 linears to solve, at most 0.0 MB on disk")
    assert "up_proj.safetensors was edited or damaged" in messages[0]
    assert messages[0].endswith("--resume solves it again")


def test_progress_counts_linears(decoder, windows, settings, tmp_path):
    told = []
    build_levels(decoder, windows, tmp_path / "db", name="tiny", settings=settings, progress=told.append)
    assert [event.done for event in told] == sorted(event.done for event in told)
    assert told[-1].done == told[-1].total == 14
    assert [event.stage for event in told[:2]] == ["checking files", "calibrating model.layers.0"]
    assert told[0].message.startswith("14 linears to solve, at most ")


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"resume": True}])
def test_a_folder_with_other_things_in_it_is_refused(flags, decoder, windows, settings, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(LevelsError, match=r"must be empty or hold a level database, got model\.safetensors and no"):
        build_levels(decoder, windows, tmp_path, name="tiny", settings=settings, **flags)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"damping": 0.1}}, "damping is 0.01 there and 0.1 here"),
        ({"settings": {"sparsities": (0.5,)}}, r"sparsities is \(0.3, 0.5, 0.8\) there and \(0.5,\) here"),
        ({"settings": {"inputs": "pruned"}}, "inputs is 'dense' there and 'pruned' here"),
        ({"windows": 3}, "calibration is '[0-9a-f]{16}' there and '[0-9a-f]{16}' here"),
        ({"seed": 1}, "model is '[0-9a-f.]{33}' there and '[0-9a-f.]{33}' here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_folder_of_other_arguments_is_refused(*, changes, message, decoder, windows, settings, tmp_path):
    output = tmp_path / "db"
    build_levels(decoder, windows, output, name="tiny", settings=settings)
    before = contents(output)
    other = settings.model_copy(update=changes.get("settings", {}))
    if "seed" in changes:
        decoder = find_decoder(tiny_model("llama", blocks=2, seed=1).to(torch.bfloat16))
    with pytest.raises(LevelsError, match=message):
        build_levels(decoder, windows[: changes.get("windows")], output, name="tiny", settings=other, resume=True)
    assert contents(output) == before


@pytest.mark.slow
def test_an_older_database_is_kept_unless_it_is_to_be_replaced(decoder, windows, settings, tmp_path):
    output = tmp_path / "db"
    build_levels(decoder, windows, output, name="tiny", settings=settings)
    (output / "notes.txt").write_text("mine", encoding="utf8")
    with pytest.raises(LevelsError, match=r"already holds levels\.json; pass --resume to continue that build"):
        build_levels(decoder, windows, output, name="tiny", settings=settings)
    with pytest.raises(LevelsError, match="resume and overwrite exclude each other"):
        build_levels(decoder, windows, output, name="tiny", resume=True, overwrite=True)
    other = LevelSettings(sparsities=(0.5,))
    again = build_levels(decoder, windows, output, name="tiny", settings=other, overwrite=True)
    assert again.sparsities == (0.5,)
    assert (output / "notes.txt").read_text(encoding="utf8") == "mine"


def test_a_replacement_that_is_killed_before_its_first_record_can_be_run_again(
    decoder, windows, settings, tmp_path, monkeypatch
):
    output = tmp_path / "db"
    build_levels(decoder, windows, output, name="tiny", settings=settings)
    (output / "notes.txt").write_text("mine", encoding="utf8")
    other = LevelSettings(sparsities=(0.5,))

    def dying(*_):
        raise BoomError

    with monkeypatch.context() as patch, pytest.raises(BoomError):
        patch.setattr(building, "write_record", dying)
        build_levels(decoder, windows, output, name="tiny", settings=other, overwrite=True)
    assert not list(output.glob("*.safetensors"))
    again = build_levels(decoder, windows, output, name="tiny", settings=other, overwrite=True)
    assert again.sparsities == (0.5,)
    assert (output / "notes.txt").read_text(encoding="utf8") == "mine"


@pytest.mark.slow
def test_a_replacement_takes_away_the_file_that_a_killed_build_had_not_yet_recorded(
    decoder, windows, settings, tmp_path
):
    output = tmp_path / "db"
    record = build_levels(decoder, windows, output, name="tiny", settings=settings).record
    linears = dict(list(record.linears.items())[:-1])
    write_record(output, record.model_copy(update={"linears": linears}))
    small = find_decoder(tiny_model("llama", blocks=1).to(torch.bfloat16))
    again = build_levels(small, windows, output, name="tiny", settings=settings, overwrite=True)
    assert contents(output).keys() == {entry.file for entry in again.record.linears.values()}


def test_a_disk_that_is_too_small_is_told_before_anything_is_computed(decoder, windows, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(stream, "BlockRunner", None)
    with pytest.raises(LevelsError, match=r"needs [\d,]+ bytes, the disk has 1,000 free; make room"):
        build_levels(decoder, windows, tmp_path / "db", name="tiny")
    assert not (tmp_path / "db" / RECORD).exists()


@pytest.mark.slow
def test_two_builds_do_not_share_a_folder(decoder, windows, settings, tmp_path):
    from unicuco_plugin.levels.folder import alone

    (tmp_path / "db").mkdir()
    with alone(tmp_path / "db"), pytest.raises(LevelsError, match="is in use: another process builds there"):
        build_levels(decoder, windows, tmp_path / "db", name="tiny", settings=settings)
    build_levels(decoder, windows, tmp_path / "db", name="tiny", settings=settings)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "qwen2_moe"])
def test_experts_are_linears_of_the_database_and_fused_again_in_the_model(family, windows, settings, tmp_path):
    model = tiny_mixture(family)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    told = []
    built = build_levels(
        find_decoder(model), windows, tmp_path / "db", name="moe", settings=settings, progress=told.append
    )
    experts = [name for name in built.record.linears if ".experts." in name]
    assert len(experts) == 4 * 4 * 3
    assert not [name for name in built.record.linears if name.endswith(("router", "shared_expert_gate"))]
    assert [event.message for event in told if re.search(r"linears have 9\d\.\d% of the weights", event.message)]
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.slow
def test_levels_of_experts_are_what_the_toolkits_pass_makes_of_them(windows, settings, tmp_path):
    # Its pass shows every token to every expert; its sequential pipeline was seen to give them other states.
    tiny_mixture("mixtral").save_pretrained(tmp_path / "model")
    tiny_tokenizer(tmp_path / "model")
    model, name = load_model(tmp_path / "model"), "model.layers.0.mlp.experts.2.down_proj"
    built = build_levels(find_decoder(model), windows, tmp_path / "db", name="moe", settings=settings)
    rows = [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in windows]
    engine = SparseGPTModifier(sparsity=settings.sparsities[1], targets=[name], block_size=settings.block_size)
    with as_linears(model):
        data = torch.utils.data.DataLoader(rows, batch_size=None)
        oneshot(model=model, dataset=data, recipe=engine, pipeline="basic")
        made = model.get_submodule(name).weight.detach().clone()
    level = built.linear(name).decode(2, made.device)
    assert ((level == 0) == (made == 0)).float().mean() > 0.999
    torch.testing.assert_close(level, made, rtol=0, atol=1e-4)


def test_experts_that_nothing_makes_linears_of_are_refused(windows, tmp_path):
    model = tf.JetMoeForCausalLM(
        tf.JetMoeConfig(
            vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_key_value_heads=2,
            kv_channels=8, num_local_experts=4, num_experts_per_tok=2,
        )
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="holds experts in one tensor, which llm-compressor does not prune"):
        build_levels(find_decoder(model), windows, tmp_path / "db", name="moe")
    assert not (tmp_path / "db").exists()


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from tiny import VOCABULARY, tiny_model
from unicuco_plugin.levels import build as building
from unicuco_plugin.levels import linear as store
from unicuco_plugin.levels import packed
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
torch.set_num_threads(1)
windows = torch.randint(3, VOCABULARY, (6, 16), generator=torch.Generator().manual_seed(0))
settings = LevelSettings(sparsities=(0.3, 0.5, 0.8), block_size=20, batch_windows=4, inputs="dense")
fsync, count = os.fsync, 0
def killing(handle):
    global count
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(handle)
os.fsync = killing
decoder = find_decoder(tiny_model("llama", blocks=2).to(torch.bfloat16))
building.build_levels(decoder, windows, Path(sys.argv[1]), name="tiny", settings=settings, resume=True)
"""


@pytest.mark.slow
def test_a_process_killed_in_the_middle_of_a_write_can_be_started_again(levels, decoder, windows, settings, tmp_path):
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = os.environ | {"PYTHONPATH": path}
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "db"), "23"], env=environment, check=False, capture_output=True
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    done = read_record(tmp_path / "db").linears
    assert 0 < len(done) < 14
    assert list((tmp_path / "db").glob(".*draft*"))
    again = build_levels(decoder, windows, tmp_path / "db", name="tiny", settings=settings, resume=True)
    assert contents(again.folder) == contents(levels.folder)
    assert not list((tmp_path / "db").glob(".*draft*"))
    assert json.loads((tmp_path / "db" / RECORD).read_text(encoding="utf8"))["schema"] == 1
