"""What a request may ask."""

import pytest
import torch

from unicuco_plugin.errors import RequestError
from unicuco_plugin.peers.layerwise import Owl
from unicuco_plugin.peers.peer import OPTIONAL, PeerRequest, choose_space
from unicuco_plugin.peers.uniform import Uniform
from unicuco_plugin.plugins.manager import list_plugins, make_peer


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.1, float("nan")])
def test_a_sparsity_outside_0_1_is_refused(ask, sparsity):
    with pytest.raises(RequestError, match=r"^sparsity must be in \(0, 1\), got"):
        ask(sparsity)


@pytest.mark.parametrize("bits", [16.0, 0.0, -1.0, 20.0])
def test_bits_outside_0_16_are_refused_as_bits(ask, bits):
    with pytest.raises(RequestError, match=rf"^bits must be in \(0, 16\), got {bits:g}$"):
        ask(1.0 - bits / 16.0, space="precision")


def test_windows_must_be_a_table_of_ids(decoder):
    with pytest.raises(RequestError, match=r"^windows must be m x L token ids, got shape \(3,\)$"):
        PeerRequest(decoder, torch.zeros(3, dtype=torch.long), 0.5)


def test_only_a_peer_that_reads_windows_needs_one(decoder):
    request = PeerRequest(decoder, torch.zeros(0, 4, dtype=torch.long), 0.5)
    assert choose_space(Uniform(), request) == "sparsity"
    with pytest.raises(RequestError, match=r"^windows must be m x L token ids, at least one, got shape \(0, 4\)$"):
        choose_space(Owl(), request)


@pytest.mark.parametrize("name", [entry.name for entry in list_plugins() if entry.kind == "peer"])
def test_what_a_built_in_peer_takes_are_fields_of_a_request(name):
    peer = make_peer(name)
    assert peer.takes <= OPTIONAL <= PeerRequest.__dataclass_fields__.keys()
    assert ("levels" in peer.takes) == (name in {"atp", "evopress"} or "precision" in peer.spaces)


def test_a_peer_serves_its_first_space_unless_asked_for_another(ask):
    assert choose_space(Owl(), ask(0.5)) == "sparsity"
    with pytest.raises(RequestError, match=r"^space must be one of sparsity for Owl, got 'depth'$"):
        choose_space(Owl(), ask(0.5, space="depth"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *[(name, r"in \[0, 0.95\] for peers, got 0.97$") for name in ("owl", "dlp", "alphapruning", "atp", "evopress")],
        *[(name, "one of 4 blocks has to stay") for name in ("shortgpt", "weight_subcloning", "cosine_window")],
    ],
)
def test_a_budget_that_cannot_be_met_is_refused_before_anything_is_run(ask, name, message):
    ran = []
    with pytest.raises(RequestError, match=message):
        make_peer(name)(ask(0.97, progress=ran.append))
    assert ran == []
