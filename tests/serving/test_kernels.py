"""Kernels by device: answers of vLLM 0.32's own ``choose_mp_linear_kernel``, for CUDA with a platform put in."""

import pytest
from quantisations import integers, quantised

from unicuco_plugin.serving.kernels import Device, Problem, find_kernel
from unicuco_plugin.serving.quantization import parse_quantization
from unicuco_plugin.serving.schemes import SCHEMES, find_scheme

CPU, TURING, AMPERE, HOPPER, BLACKWELL = Device("cpu"), *(Device("cuda", number) for number in (75, 80, 90, 100))


def kernel(weights, device, rows=128, columns=128, *, layout="pack-quantized", half=False, experts=False, **fields):
    quantization = parse_quantization(quantised((["Linear"], weights, fields), layout=layout))
    group = quantization.config_groups["group_0"]
    scheme = find_scheme(group, layout)
    assert scheme is not None
    return find_kernel(scheme, group, Problem(rows, columns, experts, half), device)


@pytest.mark.parametrize(
    ("weights", "device", "sizes", "name"),
    [
        (integers(4, 64), AMPERE, (128, 128), "Marlin"),
        (integers(8, 64), TURING, (128, 128), "Marlin"),
        (integers(4, 64, symmetric=False), AMPERE, (128, 128), "Marlin"),
        (integers(8, 64, symmetric=False), AMPERE, (128, 128), "Humming"),
        *((integers(bits, 64), AMPERE, (128, 128), "Humming") for bits in (2, 3, 5, 6, 7)),
        (integers(4, 64), HOPPER, (128, 128), "Machete"),
        (integers(4, 32), HOPPER, (128, 128), "Humming"),
        (integers(4, 64), HOPPER, (96, 128), "Humming"),
        (integers(4, 64), BLACKWELL, (96, 128), "Marlin"),
        (integers(4, 256), AMPERE, (128, 256), "Triton W4A16"),
        (integers(4, 16), AMPERE, (128, 128), "Humming"),
        (integers(4, 64), Device("cuda", 70), (128, 128), ""),
        (integers(4, 64), CPU, (128, 128), "CPU WNA16, no float32"),
        (integers(4, None, symmetric=False), CPU, (96, 64), "CPU WNA16, no float32"),
        (integers(4, 24), CPU, (40, 96), ""),
        (integers(4, 8), CPU, (32, 40), ""),
        *((integers(bits, 64), CPU, (128, 128), "") for bits in (2, 3, 5, 6, 7, 8)),
    ],
)
def test_integers_that_are_packed(weights, device, sizes, name):
    assert kernel(weights, device, *sizes) == name


def test_float16_states_let_old_kernels_in():
    assert kernel(integers(4, 16), AMPERE, half=True) == "Exllama"


TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
FLOAT = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}


@pytest.mark.parametrize(("device", "name"), [(CPU, "CPU INT8"), (TURING, "CUTLASS INT8")])
def test_eight_bits_of_weights_and_states_run_everywhere(device, name):
    assert kernel(integers(8, None), device, layout="int-quantized", input_activations=TOKEN) == name


@pytest.mark.parametrize(
    ("device", "name"),
    [(CPU, "PyTorch FP8"), (AMPERE, "Humming or Marlin FP8, weights only"), (Device("cuda", 89), "CUTLASS FP8")],
)
def test_fp8_keeps_its_states_wide_before_lovelace(device, name):
    token = TOKEN | {"type": "float"}
    assert kernel(FLOAT, device, layout="float-quantized", input_activations=token) == name


def test_fp8_weights_alone_have_no_kernel_on_the_cpu():
    assert kernel(FLOAT, CPU, layout="float-quantized") == ""


@pytest.mark.parametrize(("bits", "name"), [(4, "fused experts"), (3, "")])
def test_experts_have_kernels_of_their_own(bits, name):
    assert kernel(integers(bits), AMPERE, experts=True) == "fused experts"
    assert kernel(integers(bits), CPU, experts=True) == name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_known_on_cuda_and_refused_below_its_least_capability(scheme):
    group = parse_quantization(quantised((["Linear"], integers(4, 128)))).config_groups["group_0"]
    entry = SCHEMES[scheme]
    assert find_kernel(entry, group, Problem(128, 128), Device("cuda", 90))
    assert find_kernel(entry, group, Problem(128, 128), Device("cuda", entry.capability - 1)) == ""
