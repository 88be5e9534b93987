"""The emulated device refuses, counts and leaves nothing behind."""

import pytest
import torch
from other_device import DEVICE, other_device
from tiny import tiny_model
from torch.nn.attention import SDPBackend, sdpa_kernel

pytestmark = pytest.mark.accelerator


@pytest.fixture
def traffic():
    with other_device() as seen, sdpa_kernel(SDPBackend.MATH):
        yield seen


def there(*shape):
    return torch.ones(*shape, device=DEVICE)


@pytest.mark.usefixtures("traffic")
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize(
    "mixed",
    [
        lambda: there(2) + torch.ones(2),
        lambda: torch.ones(2) * there(2),
        lambda: torch.ones(2)[there(1).long()],
        lambda: torch.cat([there(2), torch.ones(2)]),
        lambda: torch.equal(there(2), torch.ones(2)),
        lambda: torch.tensor(1.0).add_(there(1)[0]),
        lambda: torch.nn.functional.linear(there(1, 2), torch.ones(3, 2)),
        lambda: there(3).index_put_((torch.tensor([0]),), torch.ones(1)),
    ],
)
def test_it_refuses_mixed_devices(mode, mixed):
    with mode(), pytest.raises(RuntimeError, match=r"^Expected all tensors to be on the same device"):
        mixed()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize(
    ("operation", "waits"),
    [
        (lambda: there(2) + torch.tensor(1.0), 0),
        (lambda: torch.arange(3, device=DEVICE).sum(), 0),
        (lambda: torch.ones(2).to(DEVICE, non_blocking=True), 0),
        (lambda: there(2).masked_fill_(there(2) > 0, 0.0), 0),
        (lambda: torch.ones(2).to(DEVICE), 1),
        (lambda: torch.tensor([1.0], device=DEVICE), 1),
        (lambda: there(2).cpu(), 1),
        (lambda: there(2).tolist(), 1),
        (lambda: there(1).item(), 1),
        (lambda: bool(there(1) > 0), 1),
        (lambda: torch.ones(2).copy_(there(2)), 1),
        (lambda: there(2)[there(2) > 0], 1),
        (lambda: there(2)[torch.tensor([0])], 1),
        (lambda: there(2).nonzero(), 1),
    ],
)
def test_it_counts_what_the_host_waits_for(traffic, mode, operation, waits):
    traffic.waits.clear()
    with mode():
        operation()
    assert traffic.count == waits, traffic.waits


@pytest.mark.usefixtures("traffic")
@pytest.mark.parametrize("reads", [lambda x: x.numpy(), lambda x: x.__array__()])
def test_numpy_cannot_look_at_it(reads):
    with pytest.raises(TypeError, match="can't convert lazy:0 device type tensor to numpy"):
        reads(there(2))


def test_memory_ends_and_is_given_back(traffic):
    traffic.room = 100
    kept = there(20)
    with pytest.raises(torch.OutOfMemoryError, match=r"^out of memory: tried to allocate 24 bytes, 80 are in use"):
        there(6)
    assert kept[:10].view(2, 5).sum().item() == 10.0  # views are free
    del kept
    assert traffic.used == 0


@pytest.mark.usefixtures("traffic")
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_moe", "bamba", "gpt2"])
def test_a_model_gives_the_bits_of_the_cpu_forwards_and_backwards(family):
    ids = torch.arange(3, 35).view(2, 16)
    found = []
    for place in ("cpu", DEVICE):
        model = tiny_model(family, blocks=2).to(place)
        with torch.enable_grad():
            loss = model(input_ids=ids.to(place), labels=ids.to(place)).loss
            loss.backward()
        with torch.inference_mode():
            logits = model(input_ids=ids.to(place)).logits
        gradients = [parameter.grad.cpu() for parameter in model.parameters() if parameter.grad is not None]
        found.append([loss.detach().cpu(), logits.cpu(), *gradients])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.usefixtures("traffic")
def test_tied_weights_stay_one_parameter_as_on_every_device():
    model = tiny_model("llama", blocks=2)
    weight = model.model.embed_tokens.weight
    model.to(DEVICE)
    assert model.model.embed_tokens.weight is model.lm_head.weight is weight
    assert weight.device == DEVICE


def test_nothing_is_left_of_it():
    asked = torch.is_autocast_enabled
    for _ in range(2):
        with other_device() as seen:
            assert there(2).sum().item() == 2.0
            assert seen.count == 1
        assert torch.is_autocast_enabled is asked
        assert not torch.__future__.get_swap_module_params_on_conversion()
        assert not torch.accelerator.is_available()
        assert torch.accelerator.current_accelerator() is None
