"""``unicuco levels build`` and ``show``."""

import json

import pytest

from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.levels.store import Levels


@pytest.fixture
def small(dense, text, tmp_path):
    """The arguments of a build of a second."""
    return [
        "levels", "build", "--model", dense, "--output", tmp_path / "db", "--calibration", text,
        "--samples", 4, "--seq-length", 16, "--sparsities", "0.3,0.6",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_database_is_built_and_described(unicuco, small, text, tmp_path):
    result = unicuco(*small)
    assert result.exit_code == 0, result.stderr
    facts = dict(line.split("  ", 1) for line in result.stdout.split("\n\n")[0].splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["levels"] == str(tmp_path / "db")
    assert facts["model"].startswith("dense (")
    assert facts["sparsities"] == "0.3, 0.6"
    assert facts["linears"] == "42, 46.1 k weights in float32"
    assert f"4 windows of 16 tokens from {text}" in facts["calibration"]
    assert f"unicuco levels show {tmp_path / 'db'}" in result.stdout
    assert "linears/s" in result.stderr

    shown = unicuco("levels", "show", tmp_path / "db", "--verify")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.strip() in result.stdout
    assert shown.stderr == "all 42 files match their checksums\n"


def test_show_prints_json_alone(unicuco, small, tmp_path):
    unicuco(*small, "--inputs", "pruned", "--seed", 3)
    result = unicuco("levels", "show", tmp_path / "db", "--json")
    data = json.loads(result.stdout)
    opened = Levels.open(tmp_path / "db")
    assert data["settings"]["sparsities"] == [0.3, 0.6]
    assert data["settings"]["inputs"] == "pruned"
    assert data["identity"] == opened.record.identity
    assert data["bytes"] == opened.bytes
    assert data["ratio"] == round(opened.bytes / (2 * 4 * data["weights"]), 4)
    assert data["zeros"] == [sum(entry.zeros[level] for entry in opened.record.linears.values()) for level in (0, 1)]


@pytest.mark.slow
def test_a_database_of_schemes_is_built_and_described_with_bits_bytes_and_losses(unicuco, small, tmp_path):
    result = unicuco(*small[:-2], "--schemes", "W4A16:channel, W8A16,NVFP4A16")
    assert result.exit_code == 0, result.stderr
    shown = unicuco("levels", "show", tmp_path / "db", "--verify")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.strip() in result.stdout
    assert "schemes      W4A16:channel, W8A16, NVFP4A16" in shown.stdout
    assert "dense, damping 0.01, blocks of 128 columns, actorder static" in shown.stdout
    table = [line.split() for line in shown.stdout.split("\n\n")[1].splitlines()]
    assert table[0] == ["scheme", "bits", "linears", "bytes", "loss"]
    assert [row[0] for row in table[2:]] == ["W8A16:g32", "NVFP4A16", "W4A16:channel"]
    opened = SchemeLevels.open(tmp_path / "db")
    data = json.loads(unicuco("levels", "show", tmp_path / "db", "--json").stdout)
    assert data["ratio"] == round(opened.bytes / (3 * 4 * data["weights"]), 4)
    assert "zeros" not in data
    for name, row in data["schemes"].items():
        having = [linear for linear in opened.shapes if name in {scheme.name for scheme in opened.offered(linear)}]
        assert row["linears"] == len(having)
        assert row["loss"] == pytest.approx(sum(opened.loss(linear, name) for linear in having))
        packed = [opened.packed(linear, name).values() for linear in having]
        assert row["bytes"] == sum(tensor.nbytes for tensors in packed for tensor in tensors)


@pytest.mark.slow
def test_a_database_that_is_there_is_not_lost(unicuco, small):
    unicuco(*small)
    again = unicuco(*small)
    assert again.exit_code == 1
    assert "already holds levels.json; pass --resume to continue that build" in again.stderr
    assert unicuco(*small, "--resume").exit_code == 0
    other = unicuco(*small, "--resume", "--seed", 5)
    assert other.exit_code == 1
    assert "belongs to other arguments: calibration is " in other.stderr
    assert unicuco(*small, "--overwrite", "--seed", 5).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--sparsities", "0.5,half"], 2, "'0.5,half' is not numbers such as 0.5,0.6,0.7"),
        (["--sparsities", "0.5,1"], 1, "sparsities must be one or more in (0, 1), each once and ascending"),
        (["--schemes", "W4A16"], 1, "sparsities and schemes exclude each other: a database holds levels of one kind"),
        (["--schemes", "W4"], 1, "scheme must be W2A16 to W8A16 with :g32, :g64, :g128 or :channel and :asym"),
        (["--inputs", "sparse"], 2, "'sparse' is not one of 'dense', 'pruned'"),
        (["--resume", "--overwrite"], 1, "resume and overwrite exclude each other"),
        (["--calibration", "nowhere.txt"], 1, "calibration file nowhere.txt does not exist"),
        (["--model", "/nowhere"], 1, "/nowhere: no such model folder"),
    ],
)
def test_a_build_that_cannot_start_is_one_line(*, unicuco, small, tmp_path, arguments, code, message):
    result = unicuco(*small, *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "db").exists()


def test_a_folder_that_is_no_database_is_one_line(unicuco, tmp_path):
    result = unicuco("levels", "show", tmp_path)
    assert result.exit_code == 1
    assert (
        result.stderr
        == f"error: no level database at {tmp_path}: it has no levels.json; unicuco levels build makes one\n"
    )


@pytest.mark.slow
def test_a_model_that_writes_its_own_text_gets_a_database_and_a_killed_build_of_it_is_resumed(unicuco, small, tmp_path):
    own = [part for part in small if part != "--calibration" and not str(part).endswith("text.txt")]
    database = tmp_path / "db"
    first = unicuco(*own)
    assert first.exit_code == 0, first.stderr
    whole = Levels.open(database).record.linears
    # As a kill leaves it before there is a record: windows, a lock and a half-written record.
    for path in database.iterdir():
        if path.is_file() and path.name != ".lock":
            path.unlink()
    (database / ".levels.json.unicuco-draft-abcd_123").write_text("{", encoding="utf8")
    result = unicuco(*own)
    assert result.exit_code == 0, result.stderr
    assert Levels.open(database).record.linears == whole
    assert not list(database.glob(".*draft*"))
