import subprocess
import sys
from pathlib import Path

import pytest

from unicuco_plugin.models.scratch import make_scratch, remove_scratch

HOLD = "from unicuco_plugin.models.scratch import make_scratch; print(make_scratch(), flush=True); input()"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Folders are made in one that is reached by a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "link"))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path / "real"


def test_folders_are_named_without_links_and_go(place):
    folder = make_scratch()
    assert Path(folder).parent == place
    remove_scratch(folder)
    remove_scratch(folder)
    assert not list(place.iterdir())


@pytest.mark.slow
def test_what_a_killed_process_left_goes_and_what_is_held_stays(place):
    other = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    held = Path(other.stdout.readline().strip())
    (place / "unicuco-offload-link").symlink_to(place.parent)
    first, second = make_scratch(), make_scratch()
    assert held.is_dir()
    other.kill()
    other.communicate()
    assert held.is_dir()
    third = make_scratch()
    assert not held.exists()
    assert sorted(map(str, place.glob("*-*"))) == sorted([first, second, third, str(place / "unicuco-offload-link")])
    for folder in (first, second, third):
        remove_scratch(folder)
    assert place.parent.is_dir()
