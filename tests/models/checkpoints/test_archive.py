"""Checkpoint folders packed and unpacked."""

import hashlib
import json
import os
import struct

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tiny import tiny_model, tiny_tokenizer

from unicuco_plugin.errors import ArchiveError, ExportError
from unicuco_plugin.models.checkpoints.archive import SUFFIX, pack_folder, unpack_archive

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int8, torch.uint8, torch.int64, torch.bool]
HEADER = 12 + 4 + 8  # bytes before the index


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def round_trip(folder, place):
    archive = pack_folder(folder, place / f"a{SUFFIX}", overwrite=True).path
    output = place / "out"
    output.mkdir()
    unpack_archive(archive, output)
    return output


@pytest.fixture
def sparse(tmp_path):
    """A sharded checkpoint, two thirds of its linears zero, with files of other kinds."""
    folder = tmp_path / "sparse"
    model = tiny_model("llama").to(torch.bfloat16)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.data
            weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 2 / 3] = 0
    model.save_pretrained(folder, max_shard_size="40KB")
    tiny_tokenizer(folder)
    (folder / "sub").mkdir()
    (folder / "sub" / ".hidden").write_bytes(b"")
    (folder / "empty").mkdir()
    (folder / "other.bin").write_bytes(bytes(range(256)) * 3)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture
def archive(sparse, tmp_path):
    return pack_folder(sparse, tmp_path / f"a{SUFFIX}").path


def test_a_sharded_checkpoint_comes_back_byte_for_byte(sparse, tmp_path):
    output = round_trip(sparse, tmp_path)
    assert files_of(output) == files_of(sparse)
    assert (output / "empty").is_dir()


def test_the_archive_is_smaller_by_the_zeros(sparse, tmp_path):
    packed = pack_folder(sparse, tmp_path / f"a{SUFFIX}")
    assert packed.folder_bytes == sum(len(data) for data in files_of(sparse).values())
    assert packed.archive_bytes == packed.path.stat().st_size
    weights = sum(path.stat().st_size for path in sparse.glob("*.safetensors"))
    others = packed.folder_bytes - weights
    assert packed.archive_bytes - others < 0.6 * weights


def test_packing_twice_gives_the_same_archive(sparse, tmp_path):
    first, second = (pack_folder(sparse, tmp_path / f"{name}{SUFFIX}").path for name in "ab")
    assert first.read_bytes() == second.read_bytes()


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 7), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    values = torch.randn(shape, generator=generator) * 50
    values[torch.rand(shape, generator=generator) < draw(st.floats(0, 1))] = draw(st.sampled_from([0.0, -0.0]))
    return values.to(dtype)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(named=st.dictionaries(st.text("abc.", min_size=1), tensors(), min_size=1, max_size=6))
def test_tensors_of_every_type_come_back_bit_for_bit(named, tmp_path_factory):
    place = tmp_path_factory.mktemp("tensors")
    (place / "in").mkdir()
    save_file(named, place / "in" / "model.safetensors", metadata={"format": "pt"})
    assert files_of(round_trip(place / "in", place)) == files_of(place / "in")


def test_minus_zero_survives(tmp_path):
    (tmp_path / "in").mkdir()
    weight = torch.zeros(4096, dtype=torch.bfloat16)
    weight[5] = -0.0
    save_file({"w": weight}, tmp_path / "in" / "model.safetensors")
    output = round_trip(tmp_path / "in", tmp_path)
    assert (output / "model.safetensors").read_bytes() == (tmp_path / "in" / "model.safetensors").read_bytes()
    assert (tmp_path / f"a{SUFFIX}").stat().st_size < 4096


def test_a_dense_checkpoint_packs_without_gain(tmp_path):
    (tmp_path / "in").mkdir()
    save_file({"w": torch.randn(64, 64)}, tmp_path / "in" / "model.safetensors")
    packed = pack_folder(tmp_path / "in", tmp_path / f"a{SUFFIX}")
    assert 0 < packed.archive_bytes - packed.folder_bytes < 1000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"\xff" * 50,
        struct.pack("<Q", 4) + b"[[[[" + bytes(40),
        struct.pack("<Q", 2) + b"[]" + bytes(40),
        struct.pack("<Q", 2) + b"{}" + bytes(40),
        *(
            struct.pack("<Q", len(header)) + header + bytes(40)
            for header in (
                b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 400]}}',
                b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [8, 4]}}',
                b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 7]}}',
                b'{"a": {"dtype": "F4", "shape": [9], "data_offsets": [0, 7]}}',
                b'{"a": {"dtype": [], "shape": [9], "data_offsets": [0, 7]}}',
                b'{"a": {"dtype": "F32", "data_offsets": [0.5, 7]}}',
                b'{"a": {"dtype": "F32", "data_offsets": [0, 8]}, "b": {"dtype": "F32", "data_offsets": [4, 12]}}',
            )
        ),
    ],
)
def test_a_file_that_only_bears_the_name_comes_back_too(data, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model.safetensors").write_bytes(data)
    assert files_of(round_trip(tmp_path / "in", tmp_path)) == {"model.safetensors": data}


def test_links_are_followed(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "in").mkdir()
    save_file({"w": torch.zeros(99)}, tmp_path / "blobs" / "x")
    (tmp_path / "in" / "model.safetensors").symlink_to(tmp_path / "blobs" / "x")
    output = round_trip(tmp_path / "in", tmp_path)
    assert (output / "model.safetensors").read_bytes() == (tmp_path / "blobs" / "x").read_bytes()
    assert not (output / "model.safetensors").is_symlink()


def test_no_loader_takes_an_archive_for_a_model(archive):
    with pytest.raises(SafetensorError), safe_open(archive, "pt"):
        pass
    with pytest.raises((ValueError, OSError)):
        json.loads(archive.read_bytes())


@pytest.mark.parametrize("place", range(0, 100, 3))
def test_a_flipped_bit_anywhere_is_found(place, archive, tmp_path):
    data = bytearray(archive.read_bytes())
    data[place * len(data) // 100] ^= 4
    archive.write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError):
        unpack_archive(archive, tmp_path / "out")


@pytest.mark.parametrize("kept", [0, 5, 30, 0.3, 0.9, -1], ids=str)
def test_a_truncated_archive_is_refused(kept, archive, tmp_path):
    data = archive.read_bytes()
    archive.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match=r"not an archive of unicuco pack|it is truncated"):
        unpack_archive(archive, tmp_path / "out")


def edit_index(archive, change):
    """Change the index and mend every checksum before the files', as someone would who means it."""
    data = archive.read_bytes()
    length = int.from_bytes(data[16:24], "little")
    index = json.loads(data[HEADER : HEADER + length])
    change(index)
    header = json.dumps(index).encode()
    body = data[HEADER + length + 32 : -32]
    data = data[:16] + len(header).to_bytes(8, "little") + header + hashlib.sha256(header).digest() + body
    archive.write_bytes(data + hashlib.sha256(data).digest())


@pytest.mark.parametrize("path", ["../evil", "/evil", "a/../../evil", "a\\b", "C:x", ".", "", "a//b"])
def test_a_file_that_would_lie_outside_the_folder_is_refused(path, archive, tmp_path):
    edit_index(archive, lambda index: index["files"][0].update(path=path))
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match="its index is wrong: path must lie inside the folder"):
        unpack_archive(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(files=[]), "its index is wrong: files: "),
        (lambda index: index.update(more=1), "its index is wrong: unknown field 'more'"),
        (lambda index: index["files"].append(index["files"][0]), "files must have distinct paths"),
        (lambda index: index["files"][0].update(size=7), "must sum to 7 bytes"),
        (lambda index: index["files"][0].update(parts=[[3, 9]], size=9), "its index is wrong: "),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(change, message, archive, tmp_path):
    edit_index(archive, change)
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match=message):
        unpack_archive(archive, tmp_path / "out")


def test_what_is_appended_is_found(archive, tmp_path):
    with archive.open("ab") as file:
        file.write(b"x")
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match="something was appended to it"):
        unpack_archive(archive, tmp_path / "out")


def test_a_newer_version_is_refused(archive, tmp_path):
    data = bytearray(archive.read_bytes())
    data[12] = 2
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match="version must be 1, got 2; a newer unicuco-plugin wrote it"):
        unpack_archive(archive, tmp_path)


def test_a_file_that_is_no_archive_is_refused(sparse, tmp_path):
    with pytest.raises(ArchiveError, match=r"other\.bin: not an archive of unicuco pack"):
        unpack_archive(sparse / "other.bin", tmp_path)
    with pytest.raises(ArchiveError, match=r"nothing: cannot be read"):
        unpack_archive(tmp_path / "nothing", tmp_path)


def test_a_folder_as_output_takes_the_archive_under_the_checkpoints_name(sparse, tmp_path):
    (tmp_path / "place").mkdir()
    assert pack_folder(sparse, tmp_path / "place").path == tmp_path / "place" / "sparse.unicuco"


def test_an_archive_is_replaced_only_when_told_and_nothing_else_is_ever(sparse, archive, tmp_path):
    with pytest.raises(ExportError, match="already exists; pass --overwrite"):
        pack_folder(sparse, archive)
    pack_folder(sparse, archive, overwrite=True)
    text = tmp_path / f"text{SUFFIX}"
    text.write_text("mine")
    with pytest.raises(ExportError, match="is not an archive of unicuco pack; it will not be replaced"):
        pack_folder(sparse, text, overwrite=True)
    assert text.read_text() == "mine"


@pytest.mark.parametrize(
    ("folder", "output", "message"),
    [
        ("nothing", "a.unicuco", "nothing: no such checkpoint folder"),
        ("bare", "a.unicuco", r"bare: not a checkpoint: it holds no \*\.safetensors"),
        ("sparse", "a.zip", r"a\.zip: an archive's name must end in \.unicuco"),
        ("sparse", "sparse/a.unicuco", "lies in the folder that is packed"),
        ("sparse", "sparse", "lies in the folder that is packed"),
    ],
)
def test_what_cannot_be_packed_is_refused(folder, output, message, sparse, tmp_path):
    (tmp_path / "bare").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ExportError, match=message):
        pack_folder(tmp_path / folder, tmp_path / output)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_is_neither_file_nor_folder_is_refused(sparse, tmp_path):
    os.mkfifo(sparse / "pipe")
    with pytest.raises(ExportError, match="pipe: neither a file nor a folder"):
        pack_folder(sparse, tmp_path / f"a{SUFFIX}")


def test_a_failure_leaves_nothing_and_an_older_archive_as_it_was(sparse, archive, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    before = archive.read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ExportError, match="cannot be written: disk full"):
        pack_folder(sparse, archive, overwrite=True)
    assert archive.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.unicuco", "sparse"]
