"""What a recipe may say of peers and files of EvoPress."""

import pytest
import torch
from safetensors.torch import save
from scheme_databases import build_schemes
from tiny import tiny_model

from unicuco_plugin.errors import RecipeError, RequestError, UnknownNameError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.modifiers.sources.source import PeerSource
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.peers.evopress_files import write_drops, write_levels
from unicuco_plugin.request import Request

ASK = {"request": {"sparsity": 0.5}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peer": "owl"}, "peer and request go together: peer: NAME, request: {sparsity: 0.25}"),
        (
            {"peer": "owl", "request": {"max_params": 9}},
            "request must be for sparsity with this peer, got {'max_params'",
        ),
        (
            {"peer": {"name": "owl", "setting": "super_fast"}, **ASK},
            "setting goes with peers that take it, owl does",
        ),
        ({"peer": {"name": "owl", "space": "depth"}, **ASK}, "space must be one of sparsity for owl, got 'depth'"),
        ({"peer": "evopress", **ASK}, "evopress makes its candidates from a level database: give levels, got none"),
        (
            {"peer": {"name": "evopress", "space": "depth", "levels": "db"}, **ASK},
            "levels goes with spaces on level databases, got it for 'depth'",
        ),
        ({"peer": {"name": "evopress", "space": "depth", "token_budget": 0}, **ASK}, "peer.token_budget: "),
    ],
    ids=str,
)
def test_options_that_a_peer_does_not_take_are_refused(fields, message):
    with pytest.raises(RecipeError) as caught:
        SparsityProfileModifier(**fields)
    assert message in str(caught.value)


def test_an_unknown_peer_is_refused_with_those_there_are():
    with pytest.raises(UnknownNameError, match=r"^peer must be one of alphapruning, .*; got 'magic'$"):
        SparsityProfileModifier(peer="magic", **ASK)


@pytest.mark.parametrize(("peer", "space", "text"), [("owl", "sparsity", True), ("uniform", "sparsity", False)])
def test_space_and_need_of_text_are_known_before_the_model_is(peer, space, text):
    modifier = SparsityProfileModifier(peer=peer, **ASK)
    assert (modifier.spaces, modifier.needs_text, modifier.resolve()) == ((space,), text, ())


def test_a_peer_of_bits_answers_requests_for_bits_as_a_strategy_of_its_database(tmp_path):
    model = tiny_model("llama", blocks=2)
    levels = build_schemes(model, tmp_path / "levels")
    source = PeerSource(name="uniform_bits", levels=str(levels.folder))
    nothing = torch.zeros(0, 2, dtype=torch.long)
    strategy = source.answer(model, nothing, Request.of(bits=4.5), lambda _: None)
    assert (strategy.space, strategy.source, strategy.peer) == ("precision", "peer", "uniform_bits")
    assert set(strategy.schemes.values()) == {"W4A16:channel"}
    assert 4.4 < strategy.bits <= 4.5
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}  # tied
    for name in levels.shapes:
        del tensors[f"{name}.weight"]
        tensors |= {f"{name}.{key}": tensor for key, tensor in levels.packed(name, "W4A16:channel").items()}
    # In so small a file the places of tensors are written in fewer digits than in the dense one.
    assert 0 <= strategy.bytes - len(save(tensors, {"format": "pt"})) <= 8 * len(tensors)
    with pytest.raises(RequestError, match=r"^a peer answers a request for bits, got {'sparsity': 0.5}$"):
        source.answer(model, nothing, Request.of(sparsity=0.5), lambda _: None)


def test_a_file_of_levels_needs_the_mean_that_it_does_not_tell(tmp_path):
    names = find_decoder(tiny_model("llama")).linears(0)
    write_levels(tmp_path / "levels.txt", dict.fromkeys(names, 0))
    with pytest.raises(RecipeError, match="which does not give its mean: give sparsity, got none"):
        SparsityProfileModifier(evopress=tmp_path / "levels.txt")
    entry = {"file": tmp_path / "levels.txt", "sparsity": 0.5}
    assert SparsityProfileModifier(evopress=entry).spaces == ("sparsity",)


def test_a_file_of_drops_tells_everything(tmp_path):
    write_drops(tmp_path / "drops.txt", ["none", "attn+mlp", "none"])
    assert SparsityProfileModifier(evopress=tmp_path / "drops.txt").spaces == ("depth",)
    with pytest.raises(RecipeError, match="says which layers go: sparsity goes with a file of levels"):
        SparsityProfileModifier(evopress={"file": tmp_path / "drops.txt", "sparsity": 0.5})
