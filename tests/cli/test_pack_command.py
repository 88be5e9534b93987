"""``unicuco pack`` and ``unicuco unpack``."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from unicuco_plugin.ownership import MARKER


@pytest.fixture
def sparse(dense, tmp_path):
    """The tiny checkpoint with three quarters of every matrix zero."""
    folder = tmp_path / "sparse"
    folder.mkdir()
    for path in dense.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    for tensor in tensors.values():
        tensor.view(-1)[torch.arange(tensor.numel()) % 4 > 0] = 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def contents(folder):
    """Every file but the list of them."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MARKER}


def test_a_checkpoint_is_packed_and_unpacked(unicuco, sparse, tmp_path):
    packed = unicuco("pack", sparse, "--output", tmp_path)
    assert packed.exit_code == 0, packed.stderr
    before, archive, ratio = packed.stdout.splitlines()
    assert before.startswith(f"before   {len(contents(sparse))} files, ")
    assert archive.startswith(f"archive  {tmp_path / 'sparse.unicuco'}: ")
    assert float(ratio.split()[1]) < 0.5
    unpacked = unicuco("unpack", tmp_path / "sparse.unicuco", "--output", tmp_path / "out")
    assert unpacked.exit_code == 0, unpacked.stderr
    assert unpacked.stdout.endswith("all checksums correct\n")
    assert contents(tmp_path / "out") == contents(sparse)
    again = unicuco("pack", tmp_path / "out", "--output", tmp_path / "again.unicuco")
    assert again.exit_code == 0, again.stderr
    assert (tmp_path / "again.unicuco").read_bytes() == (tmp_path / "sparse.unicuco").read_bytes()


def test_json_says_the_same(unicuco, sparse, tmp_path):
    packed = json.loads(unicuco("pack", sparse, "--output", tmp_path / "a.unicuco", "--json").stdout)
    unpacked = json.loads(unicuco("unpack", tmp_path / "a.unicuco", "--output", tmp_path / "out", "--json").stdout)
    size = (tmp_path / "a.unicuco").stat().st_size
    assert packed["archive_bytes"] == size
    assert packed["ratio"] == pytest.approx(size / packed["folder_bytes"], abs=1e-6)
    assert unpacked == packed | {"path": str(tmp_path / "out")}


def test_a_dense_checkpoint_is_said_to_gain_nothing(unicuco, tmp_path):
    (tmp_path / "in").mkdir()
    save_file({"w": torch.ones(64, 64)}, tmp_path / "in" / "model.safetensors")
    assert (
        "no gain: too few of its numbers, as stored, are zero"
        in unicuco("pack", tmp_path / "in", "--output", tmp_path).stdout
    )


def test_a_damaged_archive_is_one_line_and_leaves_no_folder(unicuco, sparse, tmp_path):
    unicuco("pack", sparse, "--output", tmp_path / "a.unicuco")
    data = (tmp_path / "a.unicuco").read_bytes()
    (tmp_path / "a.unicuco").write_bytes(data[:-9])
    result = unicuco("unpack", tmp_path / "a.unicuco", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path / 'a.unicuco'}: it ends at byte {len(data) - 9:,}: it is truncated\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.unicuco", "sparse"]


def test_what_is_there_is_replaced_only_when_told(unicuco, sparse, tmp_path):
    unicuco("pack", sparse, "--output", tmp_path / "a.unicuco")
    unicuco("unpack", tmp_path / "a.unicuco", "--output", tmp_path / "out")
    for command, source, output in (("pack", sparse, "a.unicuco"), ("unpack", tmp_path / "a.unicuco", "out")):
        refused = unicuco(command, source, "--output", tmp_path / output)
        assert refused.exit_code == 1
        assert "already exists; pass --overwrite to replace it" in refused.stderr
        assert unicuco(command, source, "--output", tmp_path / output, "--overwrite").exit_code == 0


def test_a_model_that_was_never_unpacked_is_not_replaced(unicuco, sparse, tmp_path):
    unicuco("pack", sparse, "--output", tmp_path / "a.unicuco")
    before = contents(sparse)
    refused = unicuco("unpack", tmp_path / "a.unicuco", "--output", sparse, "--overwrite")
    assert refused.exit_code == 1
    assert "and no list of unicuco's own files; it will not be replaced" in refused.stderr
    assert contents(sparse) == before


def test_an_archive_inside_the_output_is_not_removed(unicuco, sparse, tmp_path):
    unicuco("pack", sparse, "--output", tmp_path / "a.unicuco")
    unicuco("unpack", tmp_path / "a.unicuco", "--output", tmp_path / "out")
    (tmp_path / "a.unicuco").rename(tmp_path / "out" / "a.unicuco")
    refused = unicuco("unpack", tmp_path / "out" / "a.unicuco", "--output", tmp_path / "out", "--overwrite")
    assert refused.exit_code == 1
    assert "which is read; choose another output folder" in refused.stderr
    assert (tmp_path / "out" / "a.unicuco").exists()


def test_neither_imports_what_is_slow(sparse, tmp_path):
    program = (
        "import sys\nfrom unicuco_plugin.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0, end\n"
        "print(*sorted({'torch', 'transformers', 'llmcompressor'} & set(sys.modules)))"
    )
    arguments = ["pack", sparse, "--output", tmp_path / "a.unicuco"]
    run = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == ""
