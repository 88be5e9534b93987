"""Peers on a hybrid whose blocks differ in size: budgets in parameters, and one attention block stays."""

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.errors import RequestError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.needed import check_needed
from unicuco_plugin.models.blocks.sizes import measure_sizes
from unicuco_plugin.peers.evopress import EvoPress
from unicuco_plugin.peers.peer import PeerRequest
from unicuco_plugin.peers.ranked_drops import Greedy, ShortenedLlama
from unicuco_plugin.peers.similarity import CosineWindow, ShortGpt, WeightSubcloning

FOLLOWING = [CosineWindow(), Greedy(), ShortGpt(), ShortenedLlama(), WeightSubcloning()]


@pytest.fixture(scope="module")
def decoder():
    # Two convolutions, an attention, twice.
    return find_decoder(tiny_model("lfm2"))


def request(decoder, sparsity, space=None):
    windows = torch.randint(3, 128, (2, 12), generator=torch.Generator().manual_seed(0))
    return PeerRequest(decoder, windows, sparsity, space)


@pytest.mark.parametrize("sparsity", [0.15, 0.45, 0.8])
@pytest.mark.parametrize("peer", FOLLOWING, ids=lambda peer: type(peer).__name__)
def test_peers_reach_a_share_of_the_parameters_with_no_block_too_many(decoder, peer, sparsity):
    found = peer(request(decoder, sparsity))
    params = dict(zip(decoder.block_names, measure_sizes(decoder).block_params, strict=True))
    gone = sum(params[name] for name in found.units)
    assert found.sparsity == pytest.approx(gone / sum(params.values()))
    assert found.sparsity >= sparsity
    # Without its last block it would not have been reached: of blocks in a row, the lighter end.
    assert gone - max(params[name] for name in found.units) < sparsity * sum(params.values())
    check_needed(decoder, [decoder.block_names.index(name) for name in found.units])


@pytest.mark.parametrize("peer", FOLLOWING, ids=lambda peer: type(peer).__name__)
def test_a_share_that_takes_every_attention_block_is_refused(decoder, peer):
    with pytest.raises(RequestError, match=r"one of 2 blocks that generation needs has to stay, got 0\.9$"):
        peer(request(decoder, 0.9))


def test_greedy_leaves_the_attention_block_that_a_smaller_one_would_not():
    model = tiny_model("lfm2")
    # Attention that adds nothing: without it nothing is lost, and greedy would take both first.
    for index in (2, 5):
        torch.nn.init.zeros_(model.model.layers[index].self_attn.out_proj.weight)
        torch.nn.init.zeros_(model.model.layers[index].feed_forward.w2.weight)
    decoder = find_decoder(model)
    for peer in (Greedy(), ShortGpt(), WeightSubcloning()):
        units = set(peer(request(decoder, 0.4)).units)
        assert len(units & {"model.layers.2", "model.layers.5"}) == 1
        assert len(units) == 3


def test_cosine_window_refuses_what_no_row_of_blocks_reaches():
    decoder = find_decoder(tiny_model("lfm2"))
    params = measure_sizes(decoder).block_params
    # Blocks 0, 1, 3 and 4 and one attention: any five in a row leave block 0 or block 5.
    most = 1 - params[2] / sum(params)
    with pytest.raises(RequestError, match=r"^cosine_window drops blocks in a row, and no row of them reaches"):
        CosineWindow()(PeerRequest(find_decoder(tiny_model("bamba")), torch.ones(1, 8, dtype=torch.long), 0.86))
    assert CosineWindow()(request(decoder, most)).units.keys() == set(decoder.block_names[:5])


@pytest.mark.parametrize("space", ["depth", "sublayer"])
def test_evopress_refuses_by_its_own_rule(decoder, space):
    with pytest.raises(RequestError, match=r"^evopress removes a number of blocks, which is a share of the parameters"):
        EvoPress()(request(decoder, 0.3, space))
