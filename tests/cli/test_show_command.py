"""``unicuco show`` and ``unicuco plugins``."""

import json

import pytest

from unicuco_plugin.answering import load_profile


def test_json_has_the_front_and_how_the_profile_was_made(unicuco, profile):
    data = json.loads(unicuco("show", profile, "--json").stdout)
    assert data["name"] == "tiny-depth"
    assert data["space"] == "depth"
    assert [len(strategy["units"]) for strategy in data["front"]] == [1, 2, 3, 4, 5]
    assert data["provenance"]["evaluation_tokens"] == load_profile(profile).provenance["evaluation_tokens"]


def test_people_get_a_table_of_every_budget(unicuco, profile):
    lines = unicuco("show", profile).stdout.splitlines()
    assert lines[0].split() == ["profile", "tiny-depth"]
    assert [line.split()[0] for line in lines[-5:]] == ["1", "2", "3", "4", "5"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("b.SVG", b"<?xml"), ("c.pdf", b"%PDF")])
def test_a_picture_is_drawn(unicuco, profile, tmp_path, name, magic):
    result = unicuco("show", profile, "--plot", tmp_path / name)
    assert (result.exit_code, result.stderr) == (0, f"drawn to {tmp_path / name}\n")
    assert (tmp_path / name).read_bytes().startswith(magic)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.parametrize(
    ("place", "message"),
    [("front.gif", "a picture's name must end in .png, .svg, .pdf"), ("none/front.png", "no such folder")],
)
def test_a_picture_that_cannot_be_written_is_refused(unicuco, profile, tmp_path, place, message):
    result = unicuco("show", profile, "--plot", tmp_path / place)
    assert result.exit_code == 1
    assert message in result.stderr


def test_plugins_are_listed_with_their_packages(unicuco):
    data = json.loads(unicuco("plugins", "--json").stdout)
    entries = {(entry["kind"], entry["name"]): entry for entry in data}
    assert {("space", "depth"), ("objective", "divergence"), ("scalarization", "tchebycheff")} <= entries.keys()
    assert {entry["package"] for entry in data} == {"unicuco-plugin"}
    assert "unicuco_make_space" in entries["space", "depth"]["hooks"]


def test_plugins_are_a_table_for_people(unicuco):
    lines = unicuco("plugins").stdout.splitlines()
    assert lines[2].split()[:3] == ["space", "compound", "unicuco-plugin"]
    assert lines[-1].startswith("hooks of unicuco-plugin: ")
