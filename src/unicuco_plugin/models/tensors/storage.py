"""Tensors of a model where they are kept, which need not be where they are computed with.

On a machine with an accelerator the toolkit offloads every module: reading a parameter then gives a fresh copy on the
device. Whoever asks which parameter this is, how many there are, or writes into one, must have the kept tensor.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from compressed_tensors.offload import (
    disable_offloading,
    disable_onloading,
    get_cache_init_kwargs,
    get_execution_device,
    offload_module,
    remove_dispatch,
    set_onload_device,
    update_offload_parameter,
)
from compressed_tensors.offload.cache import DiskCache, OffloadCache
from torch import Tensor, nn
from transformers import PreTrainedModel

__all__ = [
    "compute_device",
    "count_parameters",
    "exchange_data",
    "exchanged",
    "is_offloaded",
    "is_streamed",
    "kept_device",
    "kept_tensors",
    "materialise",
    "on_accelerator",
    "read_all",
    "read_kept",
    "read_named",
    "read_parameters",
    "resident",
    "settle",
    "write_tensor",
]


@contextmanager
def kept_tensors() -> Iterator[None]:
    """Inside the ``with``, reading a parameter or buffer gives the kept tensor itself, wherever it is.

    For names, shapes, counts, identity and flags. What is kept on disk is a tensor without data: see
    :func:`read_kept`. A module must not be called.
    """
    with disable_onloading():
        yield


@contextmanager
def resident() -> Iterator[None]:
    """Inside the ``with``, what is offloaded is read once and stays on the device; afterwards it is let go.

    For one block that many states pass: all that is read stays.
    """
    with disable_offloading():
        yield


def read_kept(module: nn.Module, name: str) -> Tensor:
    """A parameter's data without its way over the device: the kept tensor, or what lies on disk.

    Args:
        module: Which has it.
        name: Without a dot.
    """
    with kept_tensors():
        kept: Tensor = getattr(module, name)
    if kept.is_meta and isinstance(module._parameters, DiskCache):
        return getattr(module, name).detach()
    return kept.detach()


def read_all(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a model's ``state_dict``, one at a time, as :func:`read_kept` gives it."""
    with kept_tensors():
        names = [name for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)]
    return _read(model, names)


def read_parameters(model: nn.Module, wanted: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a model whose first name is wanted, one at a time, as :func:`read_kept` gives them."""
    with kept_tensors():
        names = [name for name, _ in model.named_parameters() if wanted(name)]
    return _read(model, names)


def _read(model: nn.Module, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    for name in names:
        yield name, read_named(model, name)


def read_named(model: nn.Module, name: str) -> Tensor:
    """One parameter or buffer of a model by its full name, as :func:`read_kept` gives it."""
    owner, _, own = name.rpartition(".")
    return read_kept(model.get_submodule(owner), own)


def is_offloaded(model: nn.Module) -> bool:
    """Whether some of a model's weights are brought to where it computes whenever they are read."""
    caches = (module._parameters for module in model.modules())
    return any(isinstance(own, OffloadCache) and str(own.offload_device) != str(own.onload_device) for own in caches)


def is_streamed(model: nn.Module) -> bool:
    """Whether some of a model's weights lie on disk until they are needed."""
    return any(isinstance(module._parameters, DiskCache) for module in model.modules())


@contextmanager
def on_accelerator(model: nn.Module) -> Iterator[None]:
    """Let a model that is on the host compute on the accelerator, where there is one, as the toolkit's passes do.

    Its weights stay where they are, and are brought there when they are read. A model whose weights wait somewhere
    already, or that is on an accelerator, computes where it did.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    waits = any(isinstance(module._parameters, OffloadCache) for module in model.modules())
    if device is None or waits or any(parameter.device.type != "cpu" for parameter in model.parameters()):
        yield
        return
    set_onload_device(model, device)
    try:
        yield
    finally:
        remove_dispatch(model)


@torch.no_grad()
def exchange_data(module: nn.Module, name: str, data: Tensor) -> None:
    """Let a parameter hold other data of the same shape where it is kept: no copy is made, but of what lies on disk.

    Args:
        module: Which has it.
        name: Without a dot.
        data: On any device; afterwards it is the parameter's own.
    """
    with kept_tensors():
        kept = module.get_parameter(name)
    if isinstance(module._parameters, DiskCache):
        write_tensor(module, name, data)
    else:
        kept.data = data.to(kept.device)


@torch.no_grad()
def write_tensor(module: nn.Module, name: str, values: Tensor) -> None:
    """Write values of the same shape into a parameter where it is kept.

    Args:
        module: Which has it.
        name: Without a dot.
        values: On any device, in any dtype that the parameter's can hold.
    """
    update_offload_parameter(module, name, values)


def compute_device(model: PreTrainedModel) -> torch.device:
    """Where a model takes its tokens; no tensor is moved to find out."""
    return torch.device(get_execution_device(model.get_input_embeddings()))


def count_parameters(module: nn.Module) -> int:
    """Parameters of a module; a shared one counts once."""
    with kept_tensors():
        return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def exchanged(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a module compute with other tensors in the place of some parameters, of any shape, until the ``with`` ends.

    Args:
        module: Whose parameters; afterwards they are as they were, and were never copied.
        values: By name, on the device where the module computes.
    """
    own = module._parameters
    given = {name: nn.Parameter(value, requires_grad=False) for name, value in values.items()}
    vars(module)["_parameters"] = {name: given[name] if name in given else own[name] for name in own}
    try:
        yield
    finally:
        vars(module)["_parameters"] = own


def kept_device(module: nn.Module, name: str = "weight") -> torch.device:
    """Where a tensor that takes the place of a parameter is to be made; beside what is kept on disk, the CPU."""
    if isinstance(module._parameters, DiskCache):
        return torch.device("cpu")
    with kept_tensors():
        return module.get_parameter(name).device


def materialise(module: nn.Module, like: nn.Module) -> nn.Module:
    """Give a new module that was made in the image of one on disk memory for its tensors; others have theirs.

    Args:
        module: Not offloaded; on the meta device, where ``like`` is kept on disk.
        like: A module on the meta device is no example.

    Returns:
        ``module``.
    """
    return module.to_empty(device="cpu") if isinstance(like._parameters, DiskCache) else module


def settle(module: nn.Module, like: nn.Module) -> nn.Module:
    """Keep a new module's tensors where another's are kept, so that the toolkit finds both in one way.

    Args:
        module: If it is offloaded already (shared with ``like``), it stays where it is.
        like: Whose place it takes.

    Returns:
        ``module``.
    """
    if isinstance(like._parameters, OffloadCache) and not isinstance(module._parameters, OffloadCache):
        offload_module(module, **get_cache_init_kwargs(like))
    return module
