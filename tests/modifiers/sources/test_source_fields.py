"""What is known of a modifier's sources before they answer."""

import pytest

from unicuco_plugin.modifiers.sources.source import ProfileSource
from unicuco_plugin.modifiers.sources.source_fields import find_inputs, largest_share
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier

PACKAGED = "smollm2-135m-instruct-depth"


@pytest.fixture
def drops(tmp_path):
    (tmp_path / "drops.txt").write_text("none\nattn\nattn+mlp\nnone\n")
    return str(tmp_path / "drops.txt")


def fields(**given):
    return vars(SparsityProfileModifier(**given))


def test_every_file_that_is_read_is_named(drops):
    assert find_inputs(fields(evopress=drops)) == [drops]
    assert find_inputs(fields(profile="p", request={"sparsity": 0.5}, levels="l", structured={"kept_parts": "k"})) == [
        "p", "l", "k",
    ]  # fmt: skip
    assert find_inputs(fields(strategy=["a.json", "b.json"])) == ["a.json", "b.json"]
    assert find_inputs(fields(profiles=[ProfileSource(profile="p", request={"sparsity": 0.5})])) == ["p"]
    peer = {"name": "evopress", "space": "sparsity", "levels": "l", "journal": "j"}
    assert find_inputs(fields(peer=peer, request={"sparsity": 0.5})) == ["l", "j"]


@pytest.mark.parametrize(("sparsity", "share"), [(0.25, 0.5), (0.75, 1.0)])
def test_a_peer_may_remove_as_much_again_as_is_asked(sparsity, share):
    assert largest_share(fields(peer="shortgpt", request={"sparsity": sparsity})) == share


def test_a_drop_file_removes_at_most_the_blocks_that_it_touches(drops, tmp_path):
    assert largest_share(fields(evopress=drops)) == 0.5
    (tmp_path / "levels.txt").write_text("a: 1\nb: -1\n")
    assert largest_share(fields(evopress={"file": str(tmp_path / "levels.txt"), "sparsity": 0.5})) == 0.0
