"""A model on the host of a machine with an accelerator is measured there, and stays where it was."""

from types import SimpleNamespace

import pytest
import torch
from compressed_tensors.offload.cache.cpu import CPUCache
from other_device import DEVICE
from tiny import tiny_model

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.tensors.storage import compute_device, on_accelerator
from unicuco_plugin.modifiers.carriers.structured_options import StructuredOptions
from unicuco_plugin.modifiers.sources.late import ask_late
from unicuco_plugin.modifiers.sources.source import PeerSource


def brought(cache, kept):
    fresh = kept.detach().to(cache.onload_device)
    return torch.nn.Parameter(fresh, kept.requires_grad) if isinstance(kept, torch.nn.Parameter) else fresh


@pytest.fixture
def there(monkeypatch):
    """From now on the emulated device is the machine's accelerator; returns where embeddings were computed."""

    def begin(model):
        places = []
        model.get_input_embeddings().register_forward_hook(lambda _, __, output: places.append(output.device.type))
        # The toolkit's own makes a plain tensor of the emulated device's.
        monkeypatch.setattr(CPUCache, "onload", lambda self, kept: None if kept is None else brought(self, kept))
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: DEVICE)
        return places

    return begin


def test_a_model_on_the_host_computes_there_and_its_tensors_are_its_own(there, windows):
    model = tiny_model("llama", blocks=2)
    before, expected = dict(model.named_parameters()), model(windows).logits
    there(model)
    with on_accelerator(model):
        assert compute_device(model).type == DEVICE.type
        found = model(windows.to(DEVICE)).logits
        assert found.device.type == DEVICE.type
        with on_accelerator(model):  # it waits somewhere already
            assert compute_device(model).type == DEVICE.type
        assert compute_device(model).type == DEVICE.type
    assert torch.equal(found.cpu(), expected)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert torch.equal(model(windows).logits, expected)


def test_parts_are_ranked_there(there, windows):
    batches = [{"input_ids": window[None]} for window in windows]
    model, other = (tiny_model("llama", blocks=2) for _ in range(2))
    here = StructuredOptions()._rank(find_decoder(model), batches)
    places = there(other)
    found = StructuredOptions()._rank(find_decoder(other), batches)
    assert set(places) == {DEVICE.type}
    assert here.to_payload().digest == found.to_payload().digest


@pytest.mark.parametrize("name", ["shortgpt", "owl"])
def test_a_peer_searches_there(there, windows, name):
    state = SimpleNamespace(data=SimpleNamespace(calib=[{"input_ids": window[None]} for window in windows]))
    model, other = (tiny_model("llama", blocks=4) for _ in range(2))
    state.model = model
    here = ask_late(PeerSource(name=name), state, {"sparsity": 0.5}, lambda _: None)
    places, state.model = there(other), other
    found = ask_late(PeerSource(name=name), state, {"sparsity": 0.5}, lambda _: None)
    assert set(places) == {DEVICE.type}
    assert here.to_dict() == found.to_dict()
