"""Archives, kept parts, level databases and journals: damaged, and made so that their checksums are right."""

import hashlib
import json
import shutil
import sqlite3

import pytest
import torch
from judging import fuzz
from mutations import mutate_bytes, mutate_json
from safetensors.torch import save_file
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.journal.journal import Journal, Measurement
from unicuco_plugin.levels import record as record_module
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.scheme_levels import SchemeLevels, open_levels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.checkpoints import archive as archive_module
from unicuco_plugin.models.checkpoints.archive import pack_folder, unpack_archive
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.kept_parts_file import read_kept_parts, write_kept_parts
from unicuco_plugin.report.levels import describe_levels, levels_data

HEADER = {"model": "m", "seed": 0}
ROWS = [Measurement(f"{index}", "rank", index / 7, (0.1, index / 3), 512, 0.5) for index in range(40)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A small checkpoint and its archive."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "m").mkdir()
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    save_file({"a": weight * (weight > 0.5), "b": torch.zeros(100)}, folder / "m" / "model.safetensors")
    (folder / "m" / "config.json").write_text('{"a": 1}')
    return folder / "m", pack_folder(folder / "m", folder / "m.unicuco").path.read_bytes()


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A small level database of either kind."""
    decoder = find_decoder(tiny_model("llama", blocks=1).to(torch.bfloat16))
    windows = torch.randint(3, VOCABULARY, (4, 16), generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("levels")
    kinds = {"sparsities": (0.3, 0.8), "schemes": ("W4A16:channel:asym", "W8A16", "NVFP4A16")}
    return [
        build_levels(
            decoder, windows, folder / kind, name="tiny", settings=LevelSettings(**{kind: levels}, inputs="dense")
        ).folder
        for kind, levels in kinds.items()
    ]


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """A journal's one file."""
    path = tmp_path_factory.mktemp("journal") / "journal.sqlite"
    with Journal.open(path, HEADER, resume=False) as opened:
        opened.record(ROWS)
        opened.write_note("epoch", {"number": 3})
    return path.read_bytes()


def unpacked(judge, archive):
    path, folder = judge.folder / "a.unicuco", judge.folder / "place" / "out"
    path.write_bytes(archive)
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    refused = judge(lambda: unpack_archive(path, folder))
    assert [entry.name for entry in folder.parent.iterdir()] == ["out"]
    assert not any(entry.is_symlink() for entry in folder.rglob("*"))
    return refused, folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@fuzz(120)
def test_archives_whose_bytes_changed_are_refused(judge, draw):
    _, archive = judge.shared("packed")
    changed = mutate_bytes(archive, draw)
    refused, _ = unpacked(judge, changed)
    assert refused or changed == archive


@fuzz(120)
def test_archives_that_say_something_else(judge, draw):
    _, archive = judge.shared("packed")
    start = len(archive_module._MAGIC) + 4
    length = int.from_bytes(archive[start : start + 8], "little")
    index = json.loads(archive[start + 8 : start + 8 + length])
    data = json.dumps(mutate_json(index, draw)).encode("utf8", "surrogatepass")
    body = archive[:start] + len(data).to_bytes(8, "little") + data + hashlib.sha256(data).digest()
    body += archive[start + 8 + length + 32 : -32]
    unpacked(judge, body + hashlib.sha256(body).digest())


@fuzz(120)
def test_kept_parts(judge, draw):
    path = judge.folder / "structured.parts"
    kept = {"model.layers.0.self_attn": (0, 1), "model.layers.0.mlp": ()}
    write_kept_parts(path, KeptParts(kept, {"model.layers.0.mlp": torch.ones(8)}))
    path.write_bytes(mutate_bytes(path.read_bytes(), draw))
    judge(lambda: read_kept_parts(path))


def opened(folder):
    """Everything that a database is read for."""
    levels = open_levels(folder)
    levels.verify()
    for name in levels.record.expected:
        if isinstance(levels, SchemeLevels):
            for scheme in levels.offered(name):
                assert levels.decode(name, scheme.name).shape == levels.shapes[name]
            continue
        linear = levels.linear(name)
        for level in range(1, len(linear.zeros)):
            weight = linear.decode(level)
            assert int((weight == 0).sum()) >= int(linear.zeros[level].sum())
    return levels


def told(levels):
    describe_levels(levels)
    json.dumps(levels_data(levels), allow_nan=False)


@fuzz(100)
def test_level_records_that_say_something_else(judge, draw):
    folder = judge.folder / "db"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(draw.choice(judge.shared("database")), folder)
    document = record_module._DOCUMENT
    content = mutate_json(document.read(folder / "levels.json"), draw)
    if isinstance(content, dict):
        from test_fuzz_documents import signed

        (folder / "levels.json").write_bytes(signed(document, content))
    judge(lambda: opened(folder), told)


@fuzz(100)
def test_level_files_whose_checksum_is_right(judge, draw):
    folder = judge.folder / "db"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(draw.choice(judge.shared("database")), folder)
    document = record_module._DOCUMENT
    content = document.read(folder / "levels.json")
    name = draw.choice(sorted(content["linears"]))
    path = folder / content["linears"][name]["file"]
    data = mutate_bytes(path.read_bytes(), draw)
    path.write_bytes(data)
    content["linears"][name] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "levels.json").write_bytes(document.dumps(content))
    judge(lambda: opened(folder), told)


@fuzz(150)
def test_journals_whose_bytes_changed_are_refused_or_hold_the_same(judge, draw):
    data = judge.shared("journal")
    path = judge.folder / "journal.sqlite"
    for leftover in judge.folder.glob("journal.sqlite*"):
        leftover.unlink()
    path.write_bytes(mutate_bytes(data, draw))

    def read():
        with Journal.open(path, HEADER, resume=True) as journal:
            return journal.measurements("rank"), journal.notes(), journal.tokens_spent(), journal.seconds_spent()

    def same(found):
        assert found == (ROWS, {"epoch": {"number": 3}}, 512 * 40, 0.5 * 40)

    judge(read, same)


@fuzz(80)
def test_journals_that_say_something_else(judge, draw):
    path = judge.folder / "journal.sqlite"
    for leftover in judge.folder.glob("journal.sqlite*"):
        leftover.unlink()
    path.write_bytes(judge.shared("journal"))
    values = [None, -1, 2**62, "", "x" * 1000, b"", b"\xff" * 8, b"\0" * 9, 0.5, "[" * 5000, "nan"]
    table, column = draw.choice(
        [("measurements", name) for name in ("key", "fidelity", "value", "per_window", "tokens", "seconds")]
        + [("notes", "name"), ("notes", "value"), ("header", "name"), ("header", "value")]
    )
    connection = sqlite3.connect(path)
    try:
        connection.execute(
            f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid = ?",  # noqa: S608 - ours
            (draw.choice(values), draw.randrange(1, 3)),
        )
        connection.commit()
        changed = connection.total_changes
    except sqlite3.Error:
        changed = 0
    finally:
        connection.close()

    def read():
        with Journal.open(path, HEADER, resume=True) as journal:
            return journal.measurements("rank")

    refused = judge(read)
    assert refused or not changed
