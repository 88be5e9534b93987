"""The example space of a plugin: built, trained, answered, measured, applied and exported by its traits alone."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import VOCABULARY, WORDS, tiny_model, tiny_tokenizer
from tiny_settings import tiny_settings

from unicuco_plugin import UnicucoError, apply_strategy, load, load_profile
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.objectives.objective import ObjectiveRequest
from unicuco_plugin.plugins.manager import list_plugins, make_objective, make_space, plugin_manager
from unicuco_plugin.strategy import Strategy

PATH = Path(__file__).resolve().parents[2] / "examples" / "span_space" / "span_space.py"
WINDOWS = torch.randint(3, VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(0))
TINY = tiny_settings(initial=8, rerank=0, target="log")


@pytest.fixture
def example(load_example):
    module = load_example("span_space/span_space.py")
    plugin_manager().register(module, name="span")
    return module


def span(count=6, needed=()):
    return make_space("span", tuple(f"b.{i}" for i in range(count)), (7,) * count, needed=needed)


def test_its_source_is_short():
    assert len(PATH.read_text(encoding="utf8").splitlines()) <= 150


def test_it_is_listed_beside_the_built_in_spaces(example):
    assert "span" in [entry.name for entry in list_plugins() if entry.kind == "space"]


def test_its_strategies_are_runs_and_keys_and_units_tell_them_apart(example):
    space = span()
    rows = space.first(100, torch.Generator().manual_seed(0))
    assert len(rows) == 6 + 5 + 4 + 3 + 2
    assert len({space.key(row) for row in rows}) == len(rows)
    assert rows[:6].tolist() == torch.eye(6).tolist()
    for row in rows:
        assert space.parse(space.key(row)).tolist() == row.tolist()
        assert space.from_units(space.to_units(row)).tolist() == row.tolist()
    with pytest.raises(UnicucoError, match=r"one run of neighbouring blocks, got b\.1, b\.3"):
        space.from_units({"b.1": 1.0, "b.3": 1.0})


def test_it_meets_budgets_by_whole_blocks(example):
    space = span()
    assert space.budgets == pytest.approx([k / 6 for k in range(1, 6)])
    scores = torch.tensor([[0.0, 3.0, 0.0, 2.0, 2.0, 0.0]])
    assert space.to_units(space.project(scores, 0.3)[0]) == {"b.3": 1.0, "b.4": 1.0}
    assert space.neighbours(space.project(scores, 0.3)).shape == (1, 5, 6)
    with pytest.raises(UnicucoError, match=r"at most 0\.8333 for span"):
        space.reaching(0.9)


def test_blocks_that_generation_needs_stay(example):
    space = span(needed=((0, 3),))
    assert not any(row[0] and row[3] for row in space.runs)
    assert len(space.runs) == 20 - 2  # 0-3 and 0-4
    assert max(space.budgets) == pytest.approx(5 / 6)


def test_it_is_measured_as_blocks_that_drop_out(example):
    decoder = find_decoder(tiny_model("llama"))
    space = make_space("span", decoder.block_names, (1,) * 6)
    measured = make_objective("divergence", ObjectiveRequest(decoder, space, WINDOWS)).evaluate(
        torch.stack([space.parse("1-2"), space.parse("4-4")])
    )
    expected = BlockEvaluator(decoder, WINDOWS).evaluate([[1, 2], [4]])
    assert [found.per_window for found in measured] == [found.per_window for found in expected]
    assert measured[0].value > 0


@pytest.mark.slow
def test_as_a_script_it_trains_answers_and_exports(example, tmp_path, capsys):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer(tmp_path / "model")
    text, chance = tmp_path / "text.txt", random.Random(0)  # noqa: S311
    text.write_text(" ".join(chance.choices(WORDS, k=2000)), encoding="utf8")
    example.main(str(tmp_path / "model"), str(tmp_path / "out"), str(text), settings=TINY)
    assert "parameters without model.layers." in capsys.readouterr().out

    strategy = load_profile(tmp_path / "out" / "profile").answer(sparsity=0.25)
    places = sorted(int(unit.rpartition(".")[2]) for unit in strategy.units)
    assert places == [places[0], places[0] + 1]  # two of six blocks reach a quarter
    assert strategy.space == "span"
    assert Strategy.from_dict(strategy.to_dict()) == strategy

    exported = load(tmp_path / "out" / "checkpoint")
    by_hand = apply_strategy(load(tmp_path / "model"), strategy)
    assert exported.config.num_hidden_layers == 4
    with torch.inference_mode():
        assert torch.equal(exported(WINDOWS).logits, by_hand(WINDOWS).logits)
    assert strategy.params == sum(parameter.numel() for parameter in exported.parameters())


@pytest.mark.slow
def test_installed_its_traits_are_known_where_nobody_asked_for_plugins(tmp_path):
    (tmp_path / "span_space.py").write_text(PATH.read_text(encoding="utf8"), encoding="utf8")
    information = tmp_path / "unicuco_span-0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: unicuco-span\nVersion: 0.1\n", encoding="utf8")
    (information / "entry_points.txt").write_text("[unicuco]\nspan = span_space\n", encoding="utf8")
    program = """
from unicuco_plugin.traits import traits_of
print(traits_of("span").effect.name, traits_of("spam").effect)
from unicuco_plugin.plugins.manager import list_plugins
print(*(f"{e.package}-{e.version}" for e in list_plugins() if e.name == "span"))
"""
    paths = [str(tmp_path), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    environment.pop("UNICUCO_DISABLE_PLUGINS", None)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["DROP", "None", "unicuco-span-0.1"]
