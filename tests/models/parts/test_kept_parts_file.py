"""Kept parts survive a file."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
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


def test_a_file_that_somebody_edited_is_refused_and_one_of_an_older_version_is_read(tmp_path):
    path = tmp_path / "some.parts"
    parts = mixed_parts(biases=True)
    write_kept_parts(path, parts)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        told = file.metadata()
    name = next(name for name in tensors if name.startswith("bias."))
    save_file(tensors | {name: tensors[name] + 1}, path, metadata=told)
    with pytest.raises(StrategyError, match=r"some\.parts: payload 'kept_parts' must have the digest .* it was edited"):
        read_kept_parts(path)
    save_file(tensors, path, metadata={key: value for key, value in told.items() if key != "digest"})
    assert read_kept_parts(path).kept == parts.kept
