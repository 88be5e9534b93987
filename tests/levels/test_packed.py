"""What a file holds of every scheme, and how many bytes, against compressed-tensors."""

import pytest
import torch

from unicuco_plugin.levels.linear import store_tensors
from unicuco_plugin.levels.packed import pack, predict_packed_bytes, stored_shapes, unpack
from unicuco_plugin.levels.settings import resolve_schemes
from unicuco_plugin.schemes import parse_scheme

EVERY = ("W2A16", "W3A16:asym", "W4A16:g32", "W5A16:channel", "W7A16:asym", "W8A16", "W8A8", "FP8_DYNAMIC", "NVFP4A16")


def random_parts(scheme, rows, columns, dtype, seed=0):
    """Codes, scales and zero points that a scheme may have."""
    generator = torch.Generator().manual_seed(seed)
    groups = columns // scheme.group if scheme.group else 1
    scale = torch.rand(rows, groups, generator=generator).add(0.5).to(dtype)
    half = 2 ** (scheme.bits - 1)
    zero = torch.randint(-half, half, (rows, groups), generator=generator, dtype=torch.int8)
    if scheme.kind == "int":
        return torch.randint(-half, half, (rows, columns), generator=generator, dtype=torch.int8), scale, zero, None
    codes = torch.randn(rows, columns, generator=generator)
    if scheme.group is None:
        return codes.to(torch.float8_e4m3fn), scale, zero, None
    codes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])[torch.randint(8, codes.shape, generator=generator)] * codes.sign()
    return codes, scale.float().to(torch.float8_e4m3fn).float(), zero, torch.tensor([3.0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_what_is_packed_is_decoded_by_compressed_tensors_to_code_times_scale(name, dtype):
    scheme = parse_scheme(name).for_inputs(192)
    codes, scale, zero, overall = random_parts(scheme, 7, 192, dtype)
    weight = unpack(scheme, pack(scheme, codes, scale, zero, overall), dtype)
    assert weight.dtype == dtype
    numbers = codes.float() - (0 if scheme.symmetric else zero.float().repeat_interleave(scheme.group or 192, 1))
    scales = scale.float().repeat_interleave(192 // scale.shape[1], 1)
    if overall is None:
        assert torch.equal(weight, (numbers.to(dtype) * scales.to(dtype)))
    else:  # its decoder computes in bfloat16, whatever the model's dtype
        assert torch.equal(weight, (numbers * (scales / overall)).bfloat16().to(dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("schemes", [EVERY, ("W4A16",), ("W8A8", "W8A16:asym", "NVFP4A16"), ("W2A16:channel",)])
def test_the_bytes_of_a_file_are_predicted_exactly(schemes, dtype, tmp_path):
    shapes = {"a.b": (7, 64), "layers.ä.q_proj": (130, 192), "c" * 200: (1, 96)}
    written = 0
    for name, shape in shapes.items():
        tensors = {}
        for scheme in resolve_schemes(schemes, shape[1]):
            packed = pack(scheme, *random_parts(scheme, *shape, getattr(torch, dtype)))
            named = {f"{scheme.name}.{key}": tensor for key, tensor in packed.items()}
            assert {key: tuple(tensor.shape) for key, tensor in named.items()} == stored_shapes(scheme, shape, 2)
            tensors |= named
        written += store_tensors(tmp_path, name, tensors, shape=shape, invertible=True, losses={"x": 0}).bytes
    assert predict_packed_bytes(shapes, schemes, dtype) == written
