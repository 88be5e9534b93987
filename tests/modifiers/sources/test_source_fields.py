"""What is known of a modifier's sources before they answer."""

import pytest
from safetensors.torch import load_file

from unicuco_plugin import answering
from unicuco_plugin.answering import PACKAGED as PROFILES
from unicuco_plugin.errors import ProfileError
from unicuco_plugin.modifiers.sources.source import ProfileSource
from unicuco_plugin.modifiers.sources.source_fields import (
    find_inputs,
    find_payload,
    largest_share,
    list_sources,
    trace_source,
)
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.payload import Payload
from unicuco_plugin.profile import read_profile

PACKAGED, STRUCTURED = "smollm2-135m-instruct-depth", "smollm2-135m-instruct-structured"


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


def test_where_a_strategy_came_from_names_the_times_that_it_was_asked_with():
    asked = {"profile": "p", "request": {"sparsity": 0.5, "context": 8}, "device_table": "t.json"}
    assert trace_source(list_sources(fields(**asked)), asked["request"]) == [asked]
    assert trace_source("s.json", None) == [{"strategy": "s.json"}]


@pytest.mark.parametrize(("sparsity", "share"), [(0.25, 0.5), (0.75, 1.0)])
def test_a_peer_may_remove_as_much_again_as_is_asked(sparsity, share):
    assert largest_share(fields(peer="shortgpt", request={"sparsity": sparsity})) == share


def test_a_drop_file_removes_at_most_the_blocks_that_it_touches(drops, tmp_path):
    assert largest_share(fields(evopress=drops)) == 0.5
    (tmp_path / "levels.txt").write_text("a: 1\nb: -1\n")
    assert largest_share(fields(evopress={"file": str(tmp_path / "levels.txt"), "sparsity": 0.5})) == 0.0


def test_the_payload_is_that_of_the_profile_whose_space_needs_one():
    entries = [ProfileSource(profile=name, request={"sparsity": 0.5}) for name in (PACKAGED, STRUCTURED)]
    payload = find_payload(entries)
    assert payload.name == "parts"
    [file] = (PROFILES / STRUCTURED).glob("parts-*.safetensors")
    assert payload.digest == Payload("parts", load_file(file)).digest
    assert find_payload(entries[:1]) is None


def test_a_profile_that_lacks_the_payload_of_its_space_says_so_when_it_is_carried_out(monkeypatch):
    record, tensors = read_profile(PROFILES / STRUCTURED)
    del tensors["parts"]
    monkeypatch.setattr(answering, "load_profile", lambda _: answering.Profile(record, tensors))
    with pytest.raises(ProfileError, match=r"-structured must hold the payload 'parts', which its space needs$"):
        find_payload([ProfileSource(profile=STRUCTURED, request={"sparsity": 0.5})])
