"""Kept parts survive a file."""

import pytest
import torch
from safetensors.torch import save_file
from structured_parts import mixed_parts

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.models.parts.kept_parts_file import read_kept_parts, write_kept_parts


@pytest.mark.parametrize("biases", [False, True])
def test_what_is_written_is_read(biases, tmp_path):
    parts = mixed_parts(biases=biases)
    write_kept_parts(tmp_path / "some.parts", parts)
    read = read_kept_parts(tmp_path / "some.parts")
    assert read.kept == parts.kept
    assert read.biases.keys() == parts.biases.keys()
    assert all(torch.equal(read.biases[name], bias) for name, bias in parts.biases.items())


def test_files_that_hold_something_else_are_refused(tmp_path):
    path = tmp_path / "some.parts"
    with pytest.raises(StrategyError, match="cannot be read"):
        read_kept_parts(path)
    save_file({"lm_head.weight": torch.zeros(2)}, path)
    with pytest.raises(StrategyError, match=r"must hold kept\.\* and bias\.\*, got lm_head.weight"):
        read_kept_parts(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StrategyError, match="cannot be read"):
        read_kept_parts(path)
