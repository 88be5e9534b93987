"""The example plugin, registered and run as a script."""

import random

import pytest
import torch
from tiny import VOCABULARY, WORDS, tiny_model, tiny_tokenizer
from tiny_settings import tiny_settings

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.objectives.divergence import DivergenceObjective
from unicuco_plugin.objectives.objective import ObjectiveRequest
from unicuco_plugin.plugins.manager import list_plugins, make_objective, plugin_manager
from unicuco_plugin.spaces.depth import DepthSpace

WINDOWS = torch.randint(3, VOCABULARY, (15, 12), generator=torch.Generator().manual_seed(0))
TINY = tiny_settings(initial=8, epochs=0, rerank=0, target="log")


@pytest.fixture
def example(load_example):
    return load_example("custom_objective.py")


def test_registered_it_is_listed_and_measures_the_worst_tenth(example):
    plugin_manager().register(example, name="tail")
    assert "tail_divergence" in [entry.name for entry in list_plugins() if entry.kind == "objective"]
    decoder = find_decoder(tiny_model("llama"))
    space = DepthSpace(decoder.block_names, (1,) * 6)
    request = ObjectiveRequest(decoder, space, WINDOWS)
    X = torch.stack([space.parse("1,3"), space.parse("2")])
    plain = DivergenceObjective(request).evaluate(X)
    for tail, mean in zip(make_objective("tail_divergence", request).evaluate(X), plain, strict=True):
        assert tail.per_window == mean.per_window
        assert tail.tokens == mean.tokens
        assert tail.value == pytest.approx(sum(sorted(mean.per_window)[-2:]) / 2)
        assert tail.value > mean.value


def test_it_passes_on_names_that_are_not_its_own(example):
    assert example.unicuco_make_objective("divergence", None) is None
    assert example.unicuco_list("space") == []


@pytest.mark.slow
def test_as_a_script_it_trains_a_profile_for_its_objective(example, tmp_path, capsys):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer(tmp_path / "model")
    text, chance = tmp_path / "text.txt", random.Random(0)  # noqa: S311
    text.write_text(" ".join(chance.choices(WORDS, k=2000)), encoding="utf8")
    example.main(str(tmp_path / "model"), str(tmp_path / "p"), str(text), settings=TINY)
    assert capsys.readouterr().out.count("nats/token in the worst windows") == 5
    assert '"objective": "tail_divergence"' in (tmp_path / "p" / "profile.json").read_text(encoding="utf8")
