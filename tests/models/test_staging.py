"""A folder that appears complete or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from unicuco_plugin.errors import ExportError
from unicuco_plugin.models.staging import check_output, staged_folder


def make_checkpoint(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text, encoding="utf8")
    return folder


def test_the_folder_appears_when_all_is_written(tmp_path):
    output = tmp_path / "a" / "b" / "out"
    with staged_folder(output, overwrite=False) as stage:
        (stage / "config.json").write_text("{}", encoding="utf8")
        assert not output.exists()
        assert stage.parent == output.parent
    assert [path.name for path in output.iterdir()] == ["config.json"]
    assert list(output.parent.iterdir()) == [output]


def test_what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not(tmp_path):
    kill = (
        "import os, signal, sys; from pathlib import Path; from unicuco_plugin.models.staging import staged_folder\n"
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
    output = make_checkpoint(tmp_path / "out", "old")
    (output / "stale.txt").write_text("stale", encoding="utf8")
    with staged_folder(output, overwrite=True) as stage:
        assert (output / "config.json").read_text() == "old"
        (stage / "config.json").write_text("new", encoding="utf8")
    assert [(path.name, path.read_text()) for path in output.iterdir()] == [("config.json", "new")]
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
        if self.name.startswith(".out.") and Path(target) == output:
            raise OSError("disk on fire")
        return rename(self, target)

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


def test_an_existing_folder_needs_overwrite(tmp_path):
    output = make_checkpoint(tmp_path / "out", "old")
    with pytest.raises(ExportError, match="out: already exists; pass --overwrite to replace it"):
        check_output(output, overwrite=False)
    check_output(output, overwrite=True)


def test_a_folder_that_is_no_checkpoint_is_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work", encoding="utf8")
    with pytest.raises(ExportError, match=r"is not a checkpoint \(no config.json\); it will not be replaced"):
        check_output(tmp_path / "home", overwrite=True)


def test_a_file_is_never_replaced(tmp_path):
    (tmp_path / "out").write_text("a file", encoding="utf8")
    with pytest.raises(ExportError, match="is not a folder; it will not be replaced"):
        check_output(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("inside", [".", "models/dense"])
def test_the_dense_model_is_never_replaced(inside, tmp_path):
    output = make_checkpoint(tmp_path / "out", "dense")
    with pytest.raises(ExportError, match="holds the dense model"):
        check_output(output, overwrite=True, source=output / inside)


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
