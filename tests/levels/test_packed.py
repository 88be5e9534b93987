"""What a file holds of every scheme, and how many bytes, against compressed-tensors."""

import pytest
import torch

from unicuco_plugin.levels.packed import pack, predict_packed_bytes, read_packed, unpack, write_packed
from unicuco_plugin.levels.scheme_sweep import Grid, Quantised
from unicuco_plugin.levels.settings import resolve_schemes
from unicuco_plugin.schemes import parse_scheme

EVERY = ("W2A16", "W3A16:asym", "W4A16:g32", "W5A16:channel", "W7A16:asym", "W8A16", "W8A8", "FP8_DYNAMIC", "NVFP4A16")


def random_codes(scheme, rows, columns, dtype, seed=0):
    """Codes, scales and zero points that a scheme may have."""
    generator = torch.Generator().manual_seed(seed)
    groups = columns // scheme.group if scheme.group else 1
    scale = torch.rand(rows, groups, generator=generator).add(0.5).to(dtype)
    half = 2 ** (scheme.bits - 1)
    zero = torch.randint(-half, half, (rows, groups), generator=generator, dtype=torch.int8)
    if scheme.kind == "int":
        codes = torch.randint(-half, half, (rows, columns), generator=generator, dtype=torch.int8)
        return Quantised(scheme, codes, Grid(scale, zero), torch.zeros(()))
    codes = torch.randn(rows, columns, generator=generator)
    if scheme.group is None:
        return Quantised(scheme, codes.to(torch.float8_e4m3fn), Grid(scale, zero), torch.zeros(()))
    sizes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])[torch.randint(8, codes.shape, generator=generator)]
    grid = Grid(scale.to(torch.float8_e4m3fn).float(), zero, torch.tensor([3.0]))
    return Quantised(scheme, sizes * codes.sign(), grid, torch.zeros(()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_what_is_packed_is_decoded_by_compressed_tensors_to_code_times_scale(name, dtype):
    scheme = parse_scheme(name).for_inputs(192)
    made = random_codes(scheme, 7, 192, dtype)
    grid, overall = made.grid, made.grid.global_scale
    weight = unpack(scheme, pack(made), dtype)
    assert weight.dtype == dtype
    zeros = grid.zero_point.float().repeat_interleave(scheme.group or 192, 1)
    numbers = made.codes.float() - (0 if scheme.symmetric else zeros)
    scale = grid.scale
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
        found = getattr(torch, dtype)
        solved = [random_codes(scheme, *shape, found) for scheme in resolve_schemes(schemes, shape[1])]
        entry = write_packed(tmp_path, name, solved)
        written += entry.bytes
        for made in solved:
            stored = read_packed(tmp_path / entry.file, shape, made.scheme, found)
            assert stored.keys() == pack(made).keys()
            for key, tensor in pack(made).items():
                assert stored[key].dtype == tensor.dtype
                assert torch.equal(stored[key].float(), tensor.float())
    assert predict_packed_bytes(shapes, schemes, dtype) == written
