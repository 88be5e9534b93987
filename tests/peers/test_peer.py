"""What a request may ask."""

import pytest
import torch

from unicuco_plugin.errors import RequestError
from unicuco_plugin.peers.layerwise import Owl
from unicuco_plugin.peers.peer import PeerRequest, choose_space


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.1, float("nan")])
def test_a_sparsity_outside_0_1_is_refused(ask, sparsity):
    with pytest.raises(RequestError, match=r"^sparsity must be in \(0, 1\), got"):
        ask(sparsity)


@pytest.mark.parametrize("windows", [torch.zeros(3, dtype=torch.long), torch.zeros(0, 4, dtype=torch.long)])
def test_windows_must_be_a_table_of_ids(decoder, windows):
    with pytest.raises(RequestError, match=r"^windows must be m x L token ids, at least one, got shape"):
        PeerRequest(decoder, windows, 0.5)


def test_a_peer_serves_its_first_space_unless_asked_for_another(ask):
    assert choose_space(Owl(), ask(0.5)) == "sparsity"
    with pytest.raises(RequestError, match=r"^space must be one of sparsity for Owl, got 'depth'$"):
        choose_space(Owl(), ask(0.5, space="depth"))
