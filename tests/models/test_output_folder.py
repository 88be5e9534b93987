"""Whether an output folder may be written."""

import pytest
from staged import contents, export, fill, make_checkpoint

from unicuco_plugin.errors import ExportError
from unicuco_plugin.models.output_folder import check_output, check_room
from unicuco_plugin.models.staging import staged_folder
from unicuco_plugin.ownership import MARKER


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


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": '{"port": 80}'},
        {"config.json": "{}", "src/main.js": "x", "thesis.tex": "years", ".git/HEAD": "ref"},
        {"config.json": "{}", "checkpoint-500/optimizer.pt": "x"},
        {"config.json": "{}", "model.safetensors": "a fine-tune", "tokenizer.json": "{}"},
        {"config.json": "{}", "model.safetensors": "a fine-tune", "README.md": "# Mine"},
        {"config.json": "{}", "README.md": "tags:\n- unicuco-plugin\n", "notes.txt": "mine"},
    ],
    ids=" ".join,
)
def test_a_folder_that_we_did_not_write_is_never_replaced(files, tmp_path):
    output = fill(tmp_path / "out", files)
    with pytest.raises(ExportError, match="and no list of unicuco's own files; it will not be replaced"):
        check_output(output, overwrite=True)
    with pytest.raises(ExportError), staged_folder(output, overwrite=True):
        pass
    assert contents(output) == files


def test_an_export_of_a_version_without_markers_is_replaced(tmp_path):
    output = fill(
        tmp_path / "out", {"config.json": "{}", "model.safetensors": "", "README.md": "tags:\n- unicuco-plugin\n"}
    )
    with staged_folder(output, overwrite=True) as stage:
        fill(stage, {"config.json": "new"})
    assert contents(output) == {"config.json": "new"}
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("name", ["thesis.tex", ".git/HEAD", "sub/thesis.tex", "checkpoint-500/"])
def test_what_came_into_our_folder_later_is_named_and_kept(name, tmp_path):
    output = fill(export(tmp_path / "out", {"config.json": "old", "sub/a": "1"}), {name: "years"})
    with pytest.raises(ExportError, match=rf"out: holds {name} beside what unicuco wrote; it will not be replaced"):
        check_output(output, overwrite=True)


def test_a_link_in_our_folder_is_not_ours(tmp_path):
    output = export(tmp_path / "out", {"config.json": "old", "data": ""})
    (tmp_path / "precious").mkdir()
    (output / "data").unlink()
    (output / "data").symlink_to(tmp_path / "precious")
    with pytest.raises(ExportError, match="holds data beside what unicuco wrote"):
        check_output(output, overwrite=True)


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_input_inside_the_output_is_refused(overwrite, tmp_path):
    output = export(tmp_path / "out", {"config.json": "old", "strategy.json": "{}"})
    inputs = [None, "no such file", output / "strategy.json"]
    with pytest.raises(ExportError, match=r"out: holds .*strategy\.json, which is read; choose another output folder"):
        check_output(output, overwrite=overwrite, inputs=inputs)


def test_a_damaged_marker_protects_the_folder(tmp_path):
    output = export(tmp_path / "out", {"config.json": "old"})
    (output / MARKER).write_text('{"schema": 1, "files": ["config.json"], "digest": "0"}', encoding="utf8")
    with pytest.raises(ExportError, match="edited or damaged"):
        check_output(output, overwrite=True)


def test_a_disk_that_is_too_small_is_told_before_the_work(tmp_path):
    with pytest.raises(
        ExportError, match=r"out: needs 1,000,000,000,000,000 bytes, the disk has [\d,]+ free; make room"
    ):
        check_room(tmp_path / "no" / "out", 10**15)
    with pytest.raises(ExportError, match="needs"), staged_folder(tmp_path / "a" / "out", overwrite=False, need=10**15):
        pass
    assert list(tmp_path.iterdir()) == []
