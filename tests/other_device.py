"""A device that is not the CPU, on the CPU: it refuses what an accelerator refuses, and counts what one waits for.

Its tensors are computed with by the CPU's own kernels, so whatever runs on it gives the CPU's bits. It goes by the type
``lazy``, of which every build of PyTorch can make tensors and which nothing else here uses: no backend is registered
that would outlive a test.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils._pytree import tree_flatten, tree_map

import unicuco_plugin

__all__ = ["DEVICE", "Traffic", "other_device"]

DEVICE = torch.device("lazy", 0)
_SOURCE = str(Path(unicuco_plugin.__file__).parent)

# Whatever has to know numbers of the device before the host goes on, beside copies to the host.
_WAITS = {
    "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "_local_scalar_dense", "_unique2", "allclose", "bincount",
    "equal", "is_nonzero", "item", "linalg_cholesky", "linalg_eigvalsh", "linalg_svdvals", "masked_select",
    "multinomial", "nonzero", "unique_consecutive", "unique_dim",
}  # fmt: skip
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_MOVES = {"_to_copy", "copy_", "to"}
_MIXES = {"_has_compatible_shallow_copy_type", "copy_"}


class Traffic:
    """What one emulated device has seen.

    Attributes:
        waits: Times the host waited for the device, by the operation and the line of our source that asked for it. A
            copy either way is one, unless it is ``non_blocking``: memory that is not pinned is copied while one waits.
        room: Bytes that live tensors may take; None for no limit.
        used: Bytes that tensors made since take; ``peak`` is the most.
    """

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.room: int | None = None
        self.used = self.peak = 0

    @property
    def count(self) -> int:
        """All waits together."""
        return self.waits.total()

    def note(self, operation: str) -> None:
        """The host waits."""
        frame = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(_SOURCE):
            frame = frame.f_back
        where = "" if frame is None else f"{frame.f_code.co_filename[len(_SOURCE) + 1 :]}:{frame.f_lineno}"
        self.waits[operation, where] += 1

    def take(self, nbytes: int) -> None:
        """Memory for a tensor, if there is room."""
        if self.room is not None and self.used + nbytes > self.room:
            raise torch.OutOfMemoryError(f"out of memory: tried to allocate {nbytes} bytes, {self.used} are in use")
        self.used += nbytes
        self.peak = max(self.peak, self.used)

    def give(self, nbytes: int) -> None:
        """Memory of a tensor that is gone."""
        self.used -= nbytes


class _DeviceTensor(torch.Tensor):
    """A tensor of the device; ``held`` is what it holds."""

    traffic = Traffic()
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor, *, owns: bool = False):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, held.size(), device=DEVICE, **layout)
        if owns and cls.traffic.room is not None:
            cls.traffic.take(held.nbytes)
            made.lease = _Lease(cls.traffic, held.nbytes)
        made.held = held
        return made

    def __repr__(self, **_):
        return f"{self.held!r} on {DEVICE}"

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        if not isinstance(value, _DeviceTensor) or value.shape != self.shape or value.stride() != self.stride():
            raise RuntimeError(f"incompatible tensor type or shape: cannot set the data of {self!r}")
        self.held = value.held

    def data_ptr(self):
        return self.held.data_ptr()

    def numpy(self, **_):
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_, **__):
        return self.numpy()

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        indices = tree_flatten(args[1])[0] if name in _INDEXING and isinstance(args[0], cls) else []
        _refuse_mixed(func, name, given, indices)
        place = kwargs.get("device")
        to = [value for value in args[1:] if isinstance(value, torch.device)]
        place = to[0] if to else place
        stays = torch.device(place).type == DEVICE.type if place is not None else name != "copy_"
        leaves = isinstance(args[0], cls) != isinstance(args[1], cls) if name == "copy_" else not stays
        moved = [index for index in indices if isinstance(index, torch.Tensor) and not isinstance(index, cls)]
        masks = [index for index in indices if isinstance(index, torch.Tensor) and index.dtype == torch.bool]
        blocking = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        if name in _WAITS or masks or moved or (name in _MOVES and leaves and blocking):
            cls.traffic.note(name)
        out = (_count if name == "histc" else func)(*tree_map(_held, args), **tree_map(_held, kwargs))
        if name in _MOVES and name != "copy_" and not stays:
            return out.clone() if out is args[0].held else out
        # A view of what was made outside inference mode is no tensor of that mode, also where it is taken inside.
        with torch.inference_mode(torch.is_inference_mode_enabled() and all(value.is_inference() for value in given)):
            return tree_map(_wrapper(given, wrap=stays or name == "copy_"), out)


class _Lease:
    """Memory of one tensor; given back with it."""

    def __init__(self, traffic: Traffic, nbytes: int) -> None:
        self.traffic, self.nbytes = traffic, nbytes

    def __del__(self) -> None:
        self.traffic.give(self.nbytes)


def _count(values, *range_, **named):
    """``histc`` of integers, which the CPU does not know."""
    return torch.histc(values.float(), *range_, **named).to(values.dtype)


def _held(value):
    if isinstance(value, _DeviceTensor):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _wrapper(given, *, wrap):
    """From what a kernel returned to what its caller gets: the very tensor that was written to, or a new one."""
    known = {id(_held(value)): value for value in given}
    lent = {_held(value).untyped_storage().data_ptr() for value in given}

    def back(value):
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in known:
            return known[id(value)]
        return _DeviceTensor(value, owns=value.untyped_storage().data_ptr() not in lent) if wrap else value

    return back


def _refuse_mixed(func, name, given, indices):
    """What CUDA refuses: anything but a number together with it, but for copies and for indices from the host."""
    excused = {id(index) for index in indices}
    plain = [value for value in given if not isinstance(value, _DeviceTensor) and id(value) not in excused]
    written = func._schema.is_mutable and not isinstance(given[0], _DeviceTensor)
    if name not in _MIXES and (written or any(value.dim() for value in plain)):
        shapes = [tuple(value.shape) for value in plain]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found {DEVICE} and cpu: {name} of {shapes} on cpu"
        )


def _empty(size, dtype=None, *_, memory_format=None, **__):
    return _DeviceTensor(torch.empty(size, dtype=dtype, memory_format=memory_format), owns=True)


def _empty_strided(size, stride, dtype=None, *_, **__):
    return _DeviceTensor(torch.empty_strided(size, stride, dtype=dtype), owns=True)


def _copy_from(values, made, non_blocking=False):
    """What ``torch.tensor(data, device=...)`` ends in."""
    made.traffic.note("tensor")
    made.held.copy_(values)
    return made


def _silu_backward(gradient, values):
    """Named, so that PyTorch does not make it of other operations."""
    return torch.ops.aten.silu_backward(gradient, values)


@contextmanager
def other_device():
    """Make :data:`DEVICE` usable until the ``with`` ends; gives what it sees of traffic."""
    kernels = {"empty.memory_format": _empty, "empty_strided": _empty_strided, "_copy_from": _copy_from}
    kernels["silu_backward"] = _silu_backward
    library, autocasts = torch.library.Library("aten", "IMPL"), torch.is_autocast_enabled
    before, _DeviceTensor.traffic = _DeviceTensor.traffic, Traffic()
    try:
        for name, kernel in kernels.items():
            library.impl(name, kernel, "Lazy", allow_override=True)
        # The one question about a device of this type that PyTorch refuses.
        # Otherwise a module that moves gets parameters of other objects, where an accelerator's has the very ones.
        torch.__future__.set_swap_module_params_on_conversion(True)
        torch.is_autocast_enabled = lambda kind="cpu": kind != DEVICE.type and autocasts(kind)
        yield _DeviceTensor.traffic
    finally:
        torch.is_autocast_enabled = autocasts
        torch.__future__.set_swap_module_params_on_conversion(False)
        library._destroy()
        _DeviceTensor.traffic = before
