"""What a checkpoint keeps about its sparsity."""

import json

import pytest

from unicuco_plugin.modifiers.carriers.achieved import Achieved, LinearSparsity


@pytest.fixture
def achieved():
    rows = (
        LinearSparsity("model.layers.2.q", "model.layers.1.q", 1000, 500, 501, 480),
        LinearSparsity("model.layers.3.q", "model.layers.2.q", 100, 20, 19, 19),
    )
    return Achieved("SparseGPTModifier", 2000, rows, 2400)


def test_the_file_holds_sums_and_every_linear(achieved, tmp_path):
    achieved.write(tmp_path / "sparsity.json")
    text = (tmp_path / "sparsity.json").read_text()
    data = json.loads(text)
    assert data == achieved.to_dict()
    assert (data["planned"], data["achieved"], data["exported"], data["weights"]) == (520, 520, 499, 2000)
    assert data["linears"][0] == {
        "name": "model.layers.2.q", "exported_as": "model.layers.1.q", "weights": 1000, "planned": 500,
        "achieved": 501, "exported": 480,
    }  # fmt: skip
    assert data["block_weights"] == 2400
    assert len(text.splitlines()) == 9 + 2 + 2  # one line a linear


def test_the_worst_linear_is_the_furthest_from_its_plan_for_its_size(achieved):
    assert achieved.worst.name == "model.layers.3.q"
    assert achieved.worst.error == pytest.approx(-0.01)


def test_one_line_says_what_was_planned_and_what_became_of_it(achieved):
    assert achieved.describe() == (
        "SparseGPTModifier on 2 linears: planned 520 of 2,000 weights (0.260000), achieved 520 (0.260000); worst "
        "linear model.layers.3.q: planned 0.200000, achieved 0.190000; these linears have 45.8% of the weights of the "
        "blocks"
    )
