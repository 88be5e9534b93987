"""Which kernel of vLLM 0.32 multiplies by a linear, on which device.

Read in ``vllm/model_executor/kernels/linear``: the lists of ``__init__.py`` in their order, and what each kernel
says of itself in ``can_implement`` and ``get_min_capability``; for experts in ``layers/fused_moe/oracle``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from unicuco_plugin.serving.quantization import Group
from unicuco_plugin.serving.schemes import Scheme

__all__ = ["Device", "Problem", "find_kernel"]

# Least compute capabilities, times ten.
_HOPPER, _LOVELACE, _BLACKWELL = 90, 89, 100
_MARLIN_GROUPS, _MACHETE_GROUPS, _TRITON_GROUPS = (-1, 32, 64, 128), (-1, 64, 128), (-1, 32, 64, 128, 256)
# Of Machete's tiles, of the CPU's, of CUTLASS' for four bits beside FP8.
_MACHETE_TILE, _CPU_TILE, _CUTLASS_TILE = (64, 128), 32, 128


@dataclass(frozen=True)
class Device:
    """Where a checkpoint is to be served.

    Attributes:
        kind: ``cuda`` or ``cpu``.
        capability: Of a CUDA device, times ten: 80 is 8.0.
    """

    kind: Literal["cuda", "cpu"]
    capability: int = 80

    @property
    def label(self) -> str:
        """As people write it."""
        return f"CUDA {self.capability / 10:.1f}" if self.kind == "cuda" else "CPU"


@dataclass(frozen=True)
class Problem:
    """One multiplication.

    Attributes:
        rows: Outputs of the linear, of all that are packed together.
        columns: Inputs.
        experts: Whether it is a mixture's.
        half: Whether states are float16, which a few kernels insist on.
    """

    rows: int
    columns: int
    experts: bool = False
    half: bool = False


def find_kernel(scheme: Scheme, group: Group, problem: Problem, device: Device) -> str:
    """Name the kernel that vLLM takes, or say in an empty text that it has none.

    Args:
        scheme: Of the group.
        group: How weights and states are stored.
        problem: Sizes.
        device: Where.
    """
    if device.kind == "cuda" and device.capability < scheme.capability:
        return ""
    if problem.experts:
        return "fused experts" if device.kind == "cuda" or _on_cpu_as_experts(scheme, group) else ""
    if device.kind == "cpu":
        return _CPU.get(scheme.name, _none)(group, problem, device)
    return _CUDA[scheme.name](group, problem, device)


def _group_size(group: Group) -> int:
    return -1 if group.weights is None or group.weights.group_size is None else group.weights.group_size


def _packed_on_cuda(group: Group, problem: Problem, device: Device) -> str:
    weights, size = group.weights, _group_size(group)
    assert weights is not None  # noqa: S101 - a scheme has weights
    bits, symmetric = weights.num_bits, weights.symmetric
    whole = size == -1 or problem.columns % size == 0
    tiled = problem.columns % _MACHETE_TILE[0] == 0 and problem.rows % _MACHETE_TILE[1] == 0
    if device.capability == _HOPPER and bits in (4, 8) and size in _MACHETE_GROUPS and tiled:
        return "Machete"
    if device.capability == _HOPPER:  # where vLLM puts Humming before all that are left
        return "Humming"
    if (bits == 4 or (bits == 8 and symmetric)) and size in _MARLIN_GROUPS and whole:
        return "Marlin"
    if problem.half and bits in (4, 8) and symmetric and size > 0 and whole and problem.rows % (32 // bits) == 0:
        return "Exllama"
    if bits == 4 and problem.rows % 8 == 0 and (size in _TRITON_GROUPS or size == problem.columns):
        return "Triton W4A16"
    return "Humming"


def _packed_on_cpu(group: Group, problem: Problem, _: Device) -> str:
    size, even = _group_size(group), problem.columns % _CPU_TILE == 0 and problem.rows % _CPU_TILE == 0
    four = group.weights is not None and group.weights.num_bits == 4
    return "CPU WNA16, no float32" if four and even and (size == -1 or size % 2 == 0) else ""


def _cutlass_w4a8(group: Group, problem: Problem, device: Device) -> str:
    tiled = problem.rows % _CUTLASS_TILE == 0 and problem.columns % _CUTLASS_TILE == 0
    return "CUTLASS W4A8" if device.capability == _HOPPER and _group_size(group) == 128 and tiled else ""


def _fp8_on_cuda(group: Group, _: Problem, device: Device) -> str:
    if device.capability < _LOVELACE:
        return "Humming or Marlin FP8, weights only"
    block = group.weights is not None and group.weights.strategy == "block"
    return "block-scaled FP8" if block else "CUTLASS FP8"


def _fp8_on_cpu(group: Group, _: Problem, __: Device) -> str:
    # Blocks need a processor with AMX, which cannot be told from here.
    return "" if group.weights is None or group.weights.strategy == "block" else "PyTorch FP8"


def _nvfp4(group: Group, _: Problem, device: Device) -> str:
    full = device.capability >= _BLACKWELL and group.input_activations is not None
    return "CUTLASS or FlashInfer NVFP4" if full else "Marlin NVFP4, weights only"


def _named(name: str) -> Callable[[Group, Problem, Device], str]:
    return lambda _, __, ___: name


_none = _named("")
_CUDA: Mapping[str, Callable[[Group, Problem, Device], str]] = {
    "wna16": _packed_on_cuda,
    "wna8": _packed_on_cuda,
    "wna4": _packed_on_cuda,
    "wna8o8": _named("WNA8O8"),
    "w4a8_int": _named("Humming"),
    "w4a8_fp8": _cutlass_w4a8,
    "int8": _named("CUTLASS INT8"),
    "fp8": _fp8_on_cuda,
    "fp8a16": _named("Humming or Marlin FP8"),
    "nvfp4": _nvfp4,
    "mxfp4": _named("FlashInfer or Marlin MXFP4"),
    "w4a8_mxfp4": _named("FlashInfer or Marlin MXFP4"),
    "mxfp8": _named("FlashInfer or Marlin MXFP8"),
}
_CPU: Mapping[str, Callable[[Group, Problem, Device], str]] = {
    "wna16": _packed_on_cpu,
    "wna8": _packed_on_cpu,
    "wna4": _packed_on_cpu,
    "wna8o8": _named("WNA8O8"),
    "w4a8_int": _named("dynamic 4-bit"),
    "int8": _named("CPU INT8"),
    "fp8": _fp8_on_cpu,
}


def _on_cpu_as_experts(scheme: Scheme, group: Group) -> bool:
    four = group.weights is not None and group.weights.num_bits == 4
    return scheme.name == "int8" or (four and scheme.name in ("wna16", "w4a8_int"))
