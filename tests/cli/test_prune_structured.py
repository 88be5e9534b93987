"""``unicuco prune`` with a structured strategy: the two formats, ranked and given parts."""

import json

import pytest
from structured_parts import A, M, mixed_parts
from structured_strategies import structured_strategy

import unicuco_plugin
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.parts.kept_parts_file import KEPT_PARTS_FILE, read_kept_parts, write_kept_parts

pytestmark = pytest.mark.usefixtures("machine")


@pytest.fixture
def prune(unicuco, dense, tmp_path):
    """Prune by a strategy for these parts; ``changes`` replace fields of it."""

    def run(*arguments, **changes):
        parts = mixed_parts(biases=True)
        write_kept_parts(tmp_path / "some.parts", parts)
        (tmp_path / "s.json").write_text(structured_strategy(load_model(dense), parts, **changes).to_json())
        given = ("--model", dense, "--output", tmp_path / "out", "--overwrite", "--strategy", tmp_path / "s.json")
        return unicuco("prune", *given, *arguments)

    return run


SAID = {
    "compact": ("format      compact: blocks differ in size", ", trust_remote_code=True)"),
    "stock": ("loads everywhere, no smaller and no faster", "it is no smaller and no faster than the dense model"),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", SAID)
def test_either_format_says_what_it_is(layout, prune, dense, tmp_path):
    words, card = SAID[layout]
    done = prune("--space", "structured", "--kept-parts", tmp_path / "some.parts", "--format", layout)
    assert done.exit_code == 0, done.stderr
    assert words in done.stdout
    assert card in (tmp_path / "out" / "README.md").read_text()
    loaded = unicuco_plugin.load(tmp_path / "out")
    assert (loaded.num_parameters() < load_model(dense).num_parameters()) == (layout == "compact")


@pytest.mark.slow
@pytest.mark.parametrize("compensate", [True, False])
def test_parts_are_ranked_on_text(compensate, prune, text, tmp_path):
    options = ("--calibration", text, "--samples", "4", "--seq-length", "16", "--ranking", "wanda", "--json")
    done = prune(*options, *([] if compensate else ["--no-compensate"]), units={A.format(1): 0.5, M.format(0): 1 / 3})
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["layout"] == "compact"
    parts = read_kept_parts(tmp_path / "out" / KEPT_PARTS_FILE)
    assert {name: len(kept) for name, kept in parts.kept.items()} == {A.format(1): 1, M.format(0): 32}
    assert bool(parts.biases) == compensate


def test_options_for_another_space_or_a_recipe_are_refused(unicuco, dense, profile, tmp_path):
    given = ("prune", "--model", dense, "--output", tmp_path / "out")
    refused = unicuco(*given, "--profile", profile, "--sparsity", "0.3", "--format", "stock")
    assert "structured (format) goes with a strategy of the space 'structured', got depth" in refused.stderr
    refused = unicuco(*given, "--recipe", "r.yaml", "--kept-parts", "some.parts")
    assert "--kept-parts does not go with --recipe; write it into the recipe" in refused.stderr
    refused = unicuco(*given, "--recipe", "r.yaml", "--no-compensate")
    assert "--no-compensate does not go with --recipe; write it into the recipe" in refused.stderr
