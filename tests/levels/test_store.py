"""Files of a level database: what is written is read, what is damaged is refused."""

import hashlib
import os
import shutil

import pytest
import torch

from unicuco_plugin.errors import LevelsError, ModelMismatchError
from unicuco_plugin.levels import linear
from unicuco_plugin.levels.linear import write_linear
from unicuco_plugin.levels.record import RECORD
from unicuco_plugin.levels.store import Levels, predict_bytes
from unicuco_plugin.levels.sweep import Solved

NAME = "model.layers.1.mlp.down_proj"


@pytest.fixture
def copied(levels, tmp_path):
    """A copy to damage."""
    return shutil.copytree(levels.folder, tmp_path / "copy")


def test_a_database_knows_its_ladder_sizes_and_bytes(levels, decoder):
    linears = decoder.linears(0) | decoder.linears(1)
    assert levels.sparsities == (0.3, 0.5, 0.8)
    assert list(levels.sizes) == list(linears)
    assert levels.sizes == {name: linear.weight.numel() for name, linear in linears.items()}
    assert levels.bytes == sum(path.stat().st_size for path in levels.folder.iterdir())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_predicted_size_is_right_to_two_percent_and_never_too_small(tmp_path, dtype):
    shapes = {"a": (256, 576), "b": (64, 200)}
    sparsities, total = (0.2, 0.5, 0.9), 0
    for name, (rows, columns) in shapes.items():
        weights = torch.rand(3, rows, columns)
        for weight, sparsity in zip(weights, sparsities, strict=True):
            for block in weight.split(128, dim=1):
                block[block <= block.flatten().sort().values[int(block.numel() * sparsity)]] = 0
        solved = Solved(weights.to(dtype), torch.zeros(3, rows))
        total += write_linear(tmp_path, name, torch.ones(rows, columns), solved).bytes
    predicted = predict_bytes(shapes, sparsities, dtype.itemsize, 128)
    assert total <= predicted <= 1.02 * total


def test_a_file_whose_size_changed_is_refused_when_opened(copied):
    path = copied / f"{NAME}.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LevelsError, match=f"truncated or replaced: expected {size} bytes, got {size - 1}"):
        Levels.open(copied)


def test_a_missing_file_is_refused_when_opened(copied):
    (copied / f"{NAME}.safetensors").unlink()
    with pytest.raises(LevelsError, match=f"{NAME}.safetensors cannot be read: No such file"):
        Levels.open(copied)


def test_what_was_verified_and_has_not_changed_is_not_read_again(copied, monkeypatch):
    files = sorted(copied.glob("*.safetensors"))
    for file in files:
        os.utime(file, (1e9, 1e9))
    digested, digest = [], hashlib.file_digest
    monkeypatch.setattr(linear.hashlib, "file_digest", lambda *given: digested.append(given) or digest(*given))
    Levels.open(copied).verify()
    assert len(digested) == len(files)
    Levels.open(copied).verify()
    assert len(digested) == len(files)
    data = bytearray(files[3].read_bytes())
    data[-1] ^= 1
    files[3].write_bytes(data)
    os.utime(files[3], (1e9, 1e9))
    for _ in range(2):
        with pytest.raises(LevelsError, match=rf"^level file {files[3]} was edited or damaged"):
            Levels.open(copied).verify()


def test_an_edited_file_is_found_by_verifying(copied):
    path = copied / f"{NAME}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    opened = Levels.open(copied)
    with pytest.raises(LevelsError, match=f"{NAME}.safetensors was edited or damaged: its checksum does not match"):
        opened.verify()


def test_a_sound_database_verifies(levels):
    levels.verify()


def test_a_damaged_header_is_refused_when_read(copied):
    path = copied / f"{NAME}.safetensors"
    content = bytearray(path.read_bytes())
    content[:8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(LevelsError, match=f"{NAME}.safetensors cannot be read"):
        Levels.open(copied).linear(NAME)


def test_a_level_or_linear_that_is_not_there_is_refused(levels):
    with pytest.raises(LevelsError, match="level must be from 1 to 3, got 4"):
        levels.linear(NAME).decode(4)
    with pytest.raises(LevelsError, match="has no linear 'lm_head'"):
        levels.linear("lm_head")


def test_another_model_is_refused_by_its_fingerprint(levels):
    levels.check_model(levels.record.model.fingerprint)
    with pytest.raises(ModelMismatchError, match=r"is for tiny .*, got a model with fingerprint 0\.1"):
        levels.check_model("0.1")


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(LevelsError, match=f"no level database at .*: it has no {RECORD}"):
        Levels.open(tmp_path)
