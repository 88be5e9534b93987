"""``unicuco heal`` on a tiny model, from a checkpoint to a better one."""

import json

import pytest
import torch
from test_prune_deci import halves
from tiny import tiny_model

import unicuco_plugin
from unicuco_plugin.healing.learning import Learning
from unicuco_plugin.models.loading import load_model

OPTIONS = [
    "--tokens", "512", "--seq-length", "16", "--batch", "8", "--rank", "4", "--learning-rate", "0.02", "--top-k", "32",
    "--evaluations", "2", "--choosing", "2", "--confirming", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def pruned(dense, tmp_path_factory):
    from click.testing import CliRunner

    from unicuco_plugin.cli.main import main

    folder = tmp_path_factory.mktemp("deci")
    given = [
        "prune",
        "--model",
        dense,
        "--output",
        folder / "m",
        "--strategy",
        halves(dense, folder),
        "--format",
        "deci",
    ]
    done = CliRunner().invoke(main, list(map(str, given)))
    assert done.exit_code == 0, done.stderr
    return folder / "m"


@pytest.fixture
def heal(unicuco, pruned, dense, text):
    def run(output, *options, checkpoint=pruned):
        given = ("heal", checkpoint, "--teacher", dense, "--calibration", text, "--output", output)
        return unicuco(*given, *OPTIONS, *options)

    return run


@pytest.fixture(scope="module")
def healed(pruned, dense, text, tmp_path_factory):
    from click.testing import CliRunner

    from unicuco_plugin.cli.main import main

    folder = tmp_path_factory.mktemp("healed") / "m"
    given = ["heal", pruned, "--teacher", dense, "--calibration", text, "--output", folder, *OPTIONS]
    return folder, CliRunner().invoke(main, list(map(str, given)))


def weights_of(folder):
    return unicuco_plugin.load(folder).state_dict()


@pytest.mark.slow
def test_a_checkpoint_comes_out_better_in_the_form_that_it_came_in(healed, pruned):
    folder, done = healed
    assert done.exit_code == 0, done.stderr
    record = json.loads((folder / "healing.json").read_text())
    assert record["after"]["mean"] < record["before"]["mean"]
    assert [look["step"] for look in record["looks"]] == [0, 2, 4]
    assert f"{record['before']['mean']:.4f}" in done.stdout and f"{record['after']['mean']:.4f}" in done.stdout
    assert record["teacher"] == "dense"
    for name in ("config.json", "modeling_deci.py", "configuration_deci.py", "recipe.yaml", "tokenizer.json"):
        assert (folder / name).read_bytes() == (pruned / name).read_bytes()
    card = (folder / "README.md").read_text()
    assert card.startswith((pruned / "README.md").read_text().rstrip())
    assert "## Healing" in card and record["text"] in card
    assert json.loads((folder / "strategy.json").read_text())["divergence"] is None
    before, after = weights_of(pruned), weights_of(folder)
    assert {name: tensor.shape for name, tensor in before.items()} == {n: t.shape for n, t in after.items()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.endswith("_proj.weight") for name in changed)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(heal, healed, tmp_path, monkeypatch):
    step = Learning._step

    def die(self, number):
        if number == 3:
            raise KeyboardInterrupt
        step(self, number)

    with monkeypatch.context() as killed:
        killed.setattr(Learning, "_step", die)
        assert heal(tmp_path / "out").exit_code == 130
    assert not (tmp_path / "out").exists()
    refused = heal(tmp_path / "out")
    assert refused.exit_code == 1 and "pass --resume to continue that run" in refused.stderr
    other = heal(tmp_path / "out", "--resume", "--seed", "7")
    assert other.exit_code == 1 and "belongs to other models, text or settings" in other.stderr
    steps = []
    monkeypatch.setattr(Learning, "_step", lambda self, number: (steps.append(number), step(self, number)))
    done = heal(tmp_path / "out", "--resume")
    assert done.exit_code == 0, done.stderr
    assert steps == [2, 3]
    whole, out = weights_of(healed[0]), weights_of(tmp_path / "out")
    assert all(torch.equal(whole[name], out[name]) for name in whole)


@pytest.mark.slow
def test_what_got_worse_is_not_written(heal, tmp_path):
    done = heal(tmp_path / "out", "--learning-rate", "5")
    assert done.exit_code == 1
    assert "not written, for the divergence on held-out windows did not fall" in done.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.healing" / "state.safetensors").exists()  # or other settings would be refused


def test_a_sparse_checkpoint_is_refused(heal, tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[::2] = 0.0
    model.save_pretrained(tmp_path / "sparse")
    done = heal(tmp_path / "out", checkpoint=tmp_path / "sparse")
    assert done.exit_code == 1
    assert "50% of model.layers.1.mlp.up_proj are zeros, which merged adapters would fill" in done.stderr


@pytest.mark.slow
def test_silenced_halves_stay_so_and_a_card_is_begun(heal, tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "halved")
    done = heal(tmp_path / "out", "--dtype", "float32", "--learning-rate", "0.005", checkpoint=tmp_path / "halved")
    assert done.exit_code == 0, done.stderr
    healed = load_model(tmp_path / "out")
    assert healed.dtype == torch.bfloat16
    assert not healed.model.layers[1].mlp.down_proj.weight.any()
    assert (tmp_path / "out" / "README.md").read_text().startswith("# out\n\n## Healing\n")


def test_a_disk_without_room_is_told_before_a_weight_is_read(heal, tmp_path, monkeypatch):
    monkeypatch.setattr("unicuco_plugin.models.output_folder.free_bytes", lambda _: 1000)
    done = heal(tmp_path / "out")
    assert done.exit_code == 1 and "bytes, the disk has 1,000 free" in done.stderr
    assert not (tmp_path / "out.healing").exists()


def test_a_quantised_checkpoint_is_refused_before_a_weight_is_read(heal, tmp_path):
    (tmp_path / "fp8").mkdir()
    (tmp_path / "fp8" / "config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')
    done = heal(tmp_path / "out", checkpoint=tmp_path / "fp8")
    assert done.exit_code == 1
    assert "is quantised, and adapters cannot be merged into codes" in done.stderr


def test_another_models_teacher_is_refused(unicuco, pruned, text, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).save_pretrained(tmp_path / "other")
    from tiny import tiny_tokenizer

    tiny_tokenizer(tmp_path / "other")
    done = unicuco("heal", pruned, "--teacher", tmp_path / "other", "--output", tmp_path / "out", "--calibration", text)
    assert done.exit_code == 1
    assert "--teacher must have the checkpoint's 128 tokens, got 64" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--tokens", "many"], "tokens must be a number of tokens such as 500000, 500k or 1.5M, got 'many'"),
     (["--rank", "0"], "rank: Input should be greater than or equal to 1, got 0")],
)  # fmt: skip
def test_a_number_out_of_range_is_a_wrong_option(options, said, heal, tmp_path):
    done = heal(tmp_path / "out", *options)
    assert done.exit_code == 2 and said in done.stderr
