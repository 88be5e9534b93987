"""States of the dense model that stay: in files of their own, which go with them."""

import gc
from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.compensation.dense_states import DenseStates
from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner

WINDOWS = torch.randint(4, 128, (6, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def runner():
    return BlockRunner(find_decoder(tiny_model("llama")), WINDOWS.shape[1])


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Where scratch folders are made."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_states_that_stay_are_the_models_to_the_bit_and_in_files(runner, dtype, place):
    runner.decoder.model.to(dtype)
    kept, passing = DenseStates(runner, WINDOWS, batch=4, keep=True), DenseStates(runner, WINDOWS, batch=4)
    count = len(runner.decoder.blocks)
    kept.at(count)
    for index in range(count + 1):
        pairs = zip(kept.at(index), passing.at(index), strict=True)
        assert all(torch.equal(one, other) and one.dtype == dtype for one, other in pairs)
    batches = [batch for index in range(count + 1) for batch in kept.at(index)]
    (folder,) = place.iterdir()
    mapped = {batch.untyped_storage().filename: batch.untyped_storage().nbytes() for batch in batches}
    assert {Path(name).parent for name in mapped} == {folder}
    assert sum(mapped.values()) == sum(batch.nbytes for batch in batches)
    assert not list(folder.iterdir())  # nothing is left behind by a process that is killed


@torch.no_grad()
def test_the_files_go_with_the_states(runner, place):
    kept = DenseStates(runner, WINDOWS, keep=True)
    assert list(place.iterdir())
    del kept
    gc.collect()
    assert not list(place.iterdir())


@torch.no_grad()
def test_a_full_disk_is_an_error_and_no_end_of_the_process(runner, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CalibrationError, match=r"no room in .* \(No space left on device\): set TMPDIR"):
        DenseStates(runner, WINDOWS, keep=True)


@torch.no_grad()
def test_a_folder_that_cannot_be_made_is_an_error_that_says_what_to_set(runner, place, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(place / "absent"))
    with pytest.raises(CalibrationError, match=r"no room in any .* \(No such file or directory\): set TMPDIR"):
        DenseStates(runner, WINDOWS, keep=True)
