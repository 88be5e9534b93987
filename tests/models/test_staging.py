"""A folder that appears complete or not at all."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from staged import contents, export, fill, make_checkpoint

from unicuco_plugin.errors import ExportError
from unicuco_plugin.models import staging
from unicuco_plugin.models.output_folder import check_output
from unicuco_plugin.models.staging import staged_folder
from unicuco_plugin.ownership import MARKER, read_marker, write_marker


def test_the_folder_appears_when_all_is_written(tmp_path):
    output = tmp_path / "a" / "b" / "out"
    with staged_folder(output, overwrite=False) as stage:
        (stage / "config.json").write_text("{}", encoding="utf8")
        assert not output.exists()
        assert stage.parent == output.parent
    assert sorted(path.name for path in output.iterdir()) == [MARKER, "config.json"]
    assert read_marker(output) == {"config.json"}
    assert list(output.parent.iterdir()) == [output]


def test_what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not(tmp_path):
    kill = (
        "import os, signal, sys; from pathlib import Path\n"
        "from unicuco_plugin.models.staging import staged_folder\n"
        "with staged_folder(Path(sys.argv[1]), overwrite=False) as at:\n"
        "    (at / 'model.safetensors').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", kill, str(tmp_path / "out")], check=False)
    assert [path.name.startswith(".out.unfinished-") for path in tmp_path.iterdir()] == [True]
    with staged_folder(tmp_path / "out", overwrite=True) as first, staged_folder(tmp_path / "out", overwrite=True):
        assert first.is_dir()
        assert len(list(tmp_path.iterdir())) == 2  # both at work, the killed one's is gone
        (first / "config.json").write_text("{}", encoding="utf8")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError, match="on purpose"), staged_folder(tmp_path / "a" / "out", overwrite=False) as at:
        (at / "config.json").write_text("{}", encoding="utf8")
        raise RuntimeError("on purpose")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "out", overwrite=False):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_older_checkpoint_is_replaced_by_the_complete_new_one(tmp_path):
    output = export(tmp_path / "out", {"config.json": "old", "stale.txt": "stale", "sub/deep.txt": "", "empty/": ""})
    with staged_folder(output, overwrite=True) as stage:
        assert (output / "config.json").read_text() == "old"
        (stage / "config.json").write_text("new", encoding="utf8")
    assert contents(output) == {"config.json": "new"}
    assert list(tmp_path.iterdir()) == [output]


def test_a_failure_keeps_the_older_checkpoint(tmp_path):
    output = make_checkpoint(tmp_path / "out", "old")
    with pytest.raises(RuntimeError), staged_folder(output, overwrite=True):
        raise RuntimeError
    assert (output / "config.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


def test_a_swap_that_fails_puts_the_older_checkpoint_back(tmp_path, monkeypatch):
    output = make_checkpoint(tmp_path / "out", "old")
    rename = Path.rename

    def fail_once(self, target):
        if self.name.startswith(".out.unfinished-") and Path(target) == output:
            raise OSError("disk on fire")
        return rename(self, target)

    monkeypatch.setattr(staging, "exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fail_once)
    with (
        pytest.raises(ExportError, match="out: cannot be written: disk on fire"),
        staged_folder(output, overwrite=True) as stage,
    ):
        (stage / "config.json").write_text("new", encoding="utf8")
    assert (output / "config.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


def test_an_output_that_appears_meanwhile_is_not_overwritten(tmp_path):
    output = tmp_path / "out"
    with pytest.raises(ExportError, match="already exists"), staged_folder(output, overwrite=False):
        make_checkpoint(output, "someone else's")
    assert (output / "config.json").read_text() == "someone else's"


def test_a_folder_that_another_process_removes_before_it_is_held_is_made_again(tmp_path, monkeypatch):
    mkdtemp = tempfile.mkdtemp

    def faster(**options):
        monkeypatch.undo()
        name = mkdtemp(**options)
        staging._recover(tmp_path / "out")
        assert not Path(name).exists()
        return name

    monkeypatch.setattr(tempfile, "mkdtemp", faster)
    assert contents(export(tmp_path / "out", {"config.json": "new"})) == {"config.json": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_that_appears_at_the_last_moment_is_not_overwritten(tmp_path, monkeypatch):
    output = tmp_path / "out"
    open_for_others = staging._open_for_others

    def slow(stage):
        open_for_others(stage)
        monkeypatch.undo()
        export(output, {"config.json": "faster"})

    monkeypatch.setattr(staging, "_open_for_others", slow)
    with pytest.raises(ExportError, match="already exists"), staged_folder(output, overwrite=False) as stage:
        fill(stage, {"config.json": "new"})
    assert contents(output) == {"config.json": "faster"}
    assert list(tmp_path.iterdir()) == [output]


def test_the_folder_and_its_files_are_as_readable_as_any_new_one(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").write_text("", encoding="utf8")
    with staged_folder(tmp_path / "out", overwrite=False) as stage:
        (stage / "file").touch(mode=0o600)
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "new").stat().st_mode
    assert (tmp_path / "out" / "file").stat().st_mode == (tmp_path / "new" / "file").stat().st_mode


def test_a_parent_that_cannot_be_made_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf8")
    with (
        pytest.raises(ExportError, match="cannot be written"),
        staged_folder(tmp_path / "file" / "out", overwrite=False),
    ):
        pass


def test_what_comes_in_while_a_new_one_is_written_is_kept(tmp_path):
    output = export(tmp_path / "out", {"config.json": "old"})
    with pytest.raises(ExportError, match=r"holds thesis\.tex"), staged_folder(output, overwrite=True) as stage:
        fill(stage, {"config.json": "new"})
        fill(output, {"thesis.tex": "years"})
    assert contents(output) == {"config.json": "old", "thesis.tex": "years"}
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("where", ["before", "between", "after"])
@pytest.mark.parametrize("swap", ["in one step", "in two renames"])
def test_a_kill_around_the_swap_leaves_a_checkpoint_in_its_place_or_the_next_run_brings_it_back(where, swap, tmp_path):
    output = export(tmp_path / "out", {"config.json": "old"})
    subprocess.run([sys.executable, "-c", KILLED_SWAP, str(output), where, swap], check=False)
    if swap == "in one step":
        assert contents(output)["config.json"] in ("old", "new")
    with pytest.raises(ExportError, match="already exists"), staged_folder(output, overwrite=False):
        pass
    assert contents(output)["config.json"] in ("old", "new")
    assert list(tmp_path.iterdir()) == [output]


KILLED_SWAP = """
import os, signal, sys
from pathlib import Path
from unicuco_plugin.models import staging
output, where, swap = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
rename, one_step = Path.rename, staging.exchange
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def renaming(self, target):
    if where == "before":
        die()
    rename(self, target)
    if where == "between" or Path(target) == output:
        die()
def exchanging(first, second):
    if swap != "in one step":
        return False
    if where == "before":
        die()
    assert one_step(first, second)
    die()
Path.rename = renaming
staging.exchange = exchanging
with staging.staged_folder(output, overwrite=True) as stage:
    (stage / "config.json").write_text("new")
"""


@pytest.mark.parametrize("number", range(1, 7))
def test_a_kill_in_the_middle_of_a_marker_hinders_no_later_run(number, tmp_path):
    card = "tags:\n- unicuco-plugin\n"
    output = fill(tmp_path / "out", {"config.json": '{"model_type": "llama"}', "README.md": card})  # had no marker then
    killed = subprocess.run([sys.executable, "-c", KILLED_MARKER, str(output), str(number)], check=False)
    assert killed.returncode == -signal.SIGKILL
    check_output(output, overwrite=True)
    with staged_folder(output, overwrite=True) as stage:
        fill(stage, {"config.json": "newer"})
    assert contents(output) == {"config.json": "newer"}
    assert list(tmp_path.iterdir()) == [output]


KILLED_MARKER = """
import os, signal, sys
from pathlib import Path
from unicuco_plugin.models.staging import staged_folder
count = 0
def killing(handle):
    global count
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = killing
with staged_folder(Path(sys.argv[1]), overwrite=True) as stage:
    (stage / "config.json").write_text("new")
"""


def test_where_names_cannot_be_exchanged_a_faster_process_keeps_the_place(tmp_path, monkeypatch):
    output = export(tmp_path / "out", {"config.json": "old"})
    rename = Path.rename

    def renaming(self, target):
        rename(self, target)
        if self == output:
            monkeypatch.undo()
            export(output, {"config.json": "faster"})

    monkeypatch.setattr(staging, "exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", renaming)
    with pytest.raises(ExportError, match="not empty"), staged_folder(output, overwrite=True) as stage:
        fill(stage, {"config.json": "new"})
    assert contents(output) == {"config.json": "faster"}
    assert list(tmp_path.iterdir()) == [output]


def test_where_names_cannot_be_exchanged_nothing_is_left_of_one_who_finds_the_place_empty(tmp_path, monkeypatch):
    output = export(tmp_path / "out", {"config.json": "old"})

    def gone(*_):
        output.rename(tmp_path / "moved")
        return False

    monkeypatch.setattr(staging, "exchange", gone)
    with pytest.raises(ExportError, match="No such file"), staged_folder(output, overwrite=True) as stage:
        fill(stage, {"config.json": "new"})
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


def test_what_only_bears_the_name_of_a_leftover_is_left_alone(tmp_path):
    (tmp_path / ".out.unfinished-mine").write_text("a file", encoding="utf8")
    os.mkfifo(tmp_path / ".out.unfinished-pipe")
    fill(tmp_path / ".out.unfinished-folder", {"thesis.tex": "years"})
    fill(tmp_path / ".out.old-folder", {"config.json": "{}"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".out.unfinished-link").symlink_to(tmp_path / "elsewhere")
    write_marker(tmp_path / "elsewhere", ())
    before = sorted(path.name for path in tmp_path.iterdir())
    export(tmp_path / "out", {"config.json": "{}"})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "out"])
    assert (tmp_path / "elsewhere" / MARKER).is_file()
