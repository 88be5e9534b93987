"""A recipe run from a dense folder to a finished checkpoint."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from llmcompressor.modifiers.pruning import WandaPruningModifier
from llmcompressor.pipelines.independent import IndependentPipeline
from safetensors import SafetensorError

from unicuco_plugin import answering
from unicuco_plugin.errors import CalibrationError, ExportError, ModelMismatchError, RecipeError, RequestError
from unicuco_plugin.models import output_folder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.modifiers.export import oneshot
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.ownership import MARKER
from unicuco_plugin.pruning import apply_strategy
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import Strategy

FILES = {
    MARKER, "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
    "recipe.yaml", "strategy.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture
def dense(checkpoint):
    return checkpoint("llama")


@pytest.fixture
def modifier(dense, depth_strategy):
    return SparsityProfileModifier(strategy=depth_strategy(load_model(dense)))


@pytest.fixture
def forbidden(monkeypatch):
    """Fails the test if a model's weights are read."""

    def fail(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(oneshot, "load_model", fail)


def test_the_checkpoint_is_complete(dense, modifier, tmp_path):
    done = prune_with_recipe(dense, modifier, tmp_path / "out")
    assert {path.name for path in done.path.iterdir()} == FILES
    assert done.params == sum(parameter.numel() for parameter in load_model(done.path).parameters())
    assert done.bytes == (done.path / "model.safetensors").stat().st_size
    assert Strategy.from_dict(json.loads((done.path / "strategy.json").read_text())) == done.strategies[0]
    assert load_tokenizer(done.path).chat_template == load_tokenizer(dense).chat_template


def test_a_disk_that_is_too_small_is_told_before_the_run(dense, modifier, tmp_path, monkeypatch):
    monkeypatch.setattr(output_folder.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(oneshot, "_run", lambda *_: pytest.fail("the recipe ran"))

    def write_own(*_):
        pytest.fail("the model wrote its own text")

    with pytest.raises(ExportError, match=r"out: needs [\d,]+ bytes, the disk has 1,000 free; make room"):
        prune_with_recipe(dense, modifier, tmp_path / "out", calibration=write_own)
    assert list(tmp_path.glob("*out*")) == []


@pytest.mark.slow
def test_a_disk_that_fills_while_it_is_written_to_is_told_in_one_line(dense, modifier, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(type(load_model(dense)), "save_pretrained", fail)
    with pytest.raises(ExportError, match=r"^the model could not be saved: .*No space left on device"):
        prune_with_recipe(dense, modifier, tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == []


@pytest.mark.slow
@torch.no_grad()
def test_its_recipe_replays_to_the_same_weights(dense, modifier, tmp_path):
    first = prune_with_recipe(dense, modifier, tmp_path / "first")
    second = prune_with_recipe(dense, first.path / "recipe.yaml", tmp_path / "second")
    assert fingerprint(first.model) == fingerprint(load_model(second.path))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gemmas_norms_come_through_the_toolkit_unrounded(dtype, checkpoint, depth_strategy, tmp_path):
    folder = checkpoint("gemma3", dtype)
    for name, weight in (dense := load_model(folder)).named_parameters():
        if name.endswith("norm.weight"):  # zero in a fresh model, where rounding does not show
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    dense.save_pretrained(tmp_path / "dense")
    strategy = depth_strategy(dense)
    done = prune_with_recipe(tmp_path / "dense", SparsityProfileModifier(strategy=strategy), tmp_path / "out")
    assert fingerprint(load_model(done.path)) == fingerprint(apply_strategy(dense, strategy))


def test_a_model_in_memory_is_pruned_in_place(dense, modifier, tmp_path):
    model = load_model(dense)
    done = prune_with_recipe(model, modifier, tmp_path / "out")
    assert done.model is model
    assert model.config.num_hidden_layers == 4


def test_a_profile_answers_before_a_weight_is_read(dense, tmp_path, monkeypatch, forbidden):
    def answer(_):
        raise RequestError("no answer fits")

    monkeypatch.setattr(answering, "load_profile", lambda source, **_: SimpleNamespace(answer=answer))
    with pytest.raises(RequestError, match="no answer fits"):
        prune_with_recipe(dense, SparsityProfileModifier(profile="p", request={"sparsity": 0.3}), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("forbidden")
def test_what_can_be_refused_early_is(dense, modifier, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="already exists; pass --overwrite"):
        prune_with_recipe(dense, modifier, tmp_path / "out")
    with pytest.raises(ExportError, match="holds the dense model"):
        prune_with_recipe(dense, modifier, dense, overwrite=True)
    with pytest.raises(RecipeError, match="WandaPruningModifier needs calibration text, got none"):
        prune_with_recipe(dense, WandaPruningModifier(sparsity=0.5), tmp_path / "new")
    with pytest.raises(RecipeError, match="the recipe is empty"):
        prune_with_recipe(dense, "", tmp_path / "new")


def test_a_strategy_that_breaks_its_own_request_is_refused_before_a_block_goes(dense, depth_strategy, tmp_path):
    model = load_model(dense)
    given = depth_strategy(model).model_copy(update={"request": Request.of(max_params=100)})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ExportError, match=r"^max_params must be met: 100 was requested, the checkpoint would have "):
        prune_with_recipe(model, SparsityProfileModifier(strategy=given), tmp_path / "out")
    after = model.state_dict()
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)


@pytest.mark.usefixtures("forbidden")
def test_another_structure_is_refused_from_its_configuration(checkpoint, modifier, tmp_path):
    with pytest.raises(ModelMismatchError, match="whose structure this model does not have"):
        prune_with_recipe(checkpoint("mistral"), modifier, tmp_path / "a" / "out")
    assert list(tmp_path.iterdir()) == []


def test_other_weights_are_refused_and_leave_nothing(dense, modifier, tmp_path):
    model = load_model(dense)
    torch.nn.init.ones_(model.get_input_embeddings().weight)
    with pytest.raises(ModelMismatchError, match="same structure but other weights"):
        prune_with_recipe(model, modifier, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_calibrating_without_a_tokenizer_is_refused(dense, calibration, tmp_path):
    load_model(dense).save_pretrained(tmp_path / "bare")
    with pytest.raises(CalibrationError, match="has no tokenizer"):
        prune_with_recipe(
            tmp_path / "bare", WandaPruningModifier(sparsity=0.5), tmp_path / "out", calibration=calibration
        )


@torch.no_grad()
@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_run_broken_off_leaves_no_file_and_a_whole_model(error, dense, modifier, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise error

    model = load_model(dense)
    tokens = torch.arange(3, 43)[None]
    before, expected = fingerprint(model), model(tokens).logits
    monkeypatch.setattr(IndependentPipeline, "__call__", staticmethod(fail))
    with pytest.raises((ExportError, KeyboardInterrupt)):
        prune_with_recipe(model, modifier, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert fingerprint(model) == before
    torch.testing.assert_close(model(tokens).logits, expected, rtol=0, atol=0)


def test_a_save_that_fails_leaves_no_file(dense, modifier, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(oneshot, "write_card", fail)
    with pytest.raises(ExportError, match="cannot be written: disk full"):
        prune_with_recipe(dense, modifier, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_older_export_is_replaced(dense, modifier, depth_strategy, tmp_path):
    prune_with_recipe(dense, modifier, tmp_path / "out")
    smaller = SparsityProfileModifier(strategy=depth_strategy(load_model(dense), (0, 1, 2)))
    done = prune_with_recipe(dense, smaller, tmp_path / "out", overwrite=True)
    assert load_model(done.path).config.num_hidden_layers == 3
    assert list(tmp_path.iterdir()) == [done.path]


@pytest.mark.slow
def test_it_runs_offline_and_writes_nothing_to_standard_output(dense, depth_strategy, strategy_file, tmp_path):
    path = strategy_file(depth_strategy(load_model(dense)))
    program = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise OSError('the network was used')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe\n"
        "from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier\n"
        "dense, strategy, output = sys.argv[1:]\n"
        "prune_with_recipe(dense, SparsityProfileModifier(strategy=strategy), output)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, dense, path, tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    assert "INFO" not in run.stderr and "WARNING" not in run.stderr
