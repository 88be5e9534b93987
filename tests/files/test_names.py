"""Names that a record gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.files.names import check_own_folder, check_plain_name


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.safetensors", "a", "grün", "x" * 255])
def test_a_plain_name_passes(name):
    assert check_plain_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".lock",
        "a/b",
        "/etc/passwd",
        "../a",
        "a\\b",
        "C:a",
        "a\0b",
        "a\nb",
        "a\x1b[2J",
        "\u202ea",
        "a\xa0",
        "a\u2028b",
        "x" * 256,
        "\ud800",
    ],
)
def test_a_name_that_leads_elsewhere_or_shows_as_something_else_is_refused(name):
    with pytest.raises(ValueError, match="must be the plain name of a file"):
        check_plain_name(name)


@given(st.text())
def test_a_name_that_passes_is_a_file_of_its_own_folder(name):
    try:
        check_plain_name(name)
    except ValueError:
        return
    assert "/" not in name
    assert name not in ("", ".", "..")
    assert name.isprintable()


def test_a_folder_of_an_output_is_a_folder_of_its_own(tmp_path):
    assert check_own_folder(tmp_path / "no") == tmp_path / "no"
    assert check_own_folder(tmp_path) == tmp_path
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(OSError, match=f"{name} must be a folder of its own; remove what is there"):
            check_own_folder(tmp_path / name)
