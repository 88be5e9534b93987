"""One linear's file: what is written is read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.levels.linear import _BITS, LinearLevels, read_tensors, write_linear
from unicuco_plugin.levels.sweep import Solved

NAME = "model.layers.1.mlp.down_proj"


@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 37),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_what_is_written_is_read_bit_for_bit(*, tmp_path_factory, rows, columns, dtype, share, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, rows, columns, generator=generator).to(dtype)
    weights[torch.rand(weights.shape, generator=generator) < share] = 0
    losses = torch.rand(2, rows, generator=generator)
    folder = tmp_path_factory.mktemp("store")
    dense = torch.randn(rows, columns, generator=generator).to(dtype)
    dense[0, 0] = 0
    entry = write_linear(folder, "a.b", dense, Solved(weights, losses))
    read = LinearLevels.open(folder / entry.file, entry.shape, len(entry.zeros))
    for level in (1, 2):
        assert torch.equal(read.decode(level), weights[level - 1])
        assert read.decode(level).dtype == dtype
    assert torch.equal(read.losses, torch.cat([torch.zeros(1, rows), losses]).double())
    assert torch.equal(read.zeros, torch.stack([(weight == 0).sum(1) for weight in (dense, *weights)]))
    assert entry.zeros == tuple((weights == 0).sum((1, 2)).tolist())
    assert [path.name for path in folder.iterdir()] == ["a.b.safetensors"]


def test_a_minus_zero_is_stored_as_a_zero(tmp_path):
    weights = torch.tensor([[[-0.0, 1.0]]])
    entry = write_linear(tmp_path, "a", torch.ones(1, 2), Solved(weights, torch.zeros(1, 1)))
    assert LinearLevels.open(tmp_path / entry.file, (1, 2), 1).decode(1).view(torch.int32).tolist() == [[0, 1065353216]]


def test_the_bits_of_a_byte_are_in_the_order_that_both_decoders_read(levels):
    # On a device the mask is unpacked by a table, on the CPU by NumPy: the table's route, here.
    stored = levels.linear(NAME)
    rows, columns = stored.shape
    shapes = {"mask.2": (rows, -(-columns // 8)), "values.2": (rows * columns - int(stored.zeros[2].sum()),)}
    mask, values = read_tensors(stored.path, shapes)
    bits = _BITS[mask.int()].view(torch.bool).view(len(mask), -1)[:, : stored.shape[1]]
    assert torch.equal(values.new_zeros(stored.shape).masked_scatter_(bits, values), stored.decode(2))


def test_memory_that_is_full_is_no_damage(levels, monkeypatch):
    linear = levels.linear(next(iter(levels.sizes)))

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("unicuco_plugin.levels.linear._expand", full)
    with pytest.raises(torch.OutOfMemoryError):
        linear.decode(1)
