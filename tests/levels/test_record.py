import json

import pytest

from unicuco_plugin.errors import LevelsError
from unicuco_plugin.levels.record import RECORD, read_record, write_file, write_record
from unicuco_plugin.levels.settings import LevelSettings


def test_a_record_is_read_as_it_was_written(levels, tmp_path):
    write_record(tmp_path, levels.record)
    assert read_record(tmp_path) == levels.record
    assert levels.record.complete


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content | {"dtype": "float32"}, "was edited or damaged: its digest does not match"),
        (lambda content: content | {"schema": 2}, "schema must be 1, got 2: another unicuco-plugin wrote"),
        (lambda content: [], "is damaged: it has no schema"),
    ],
    ids=["edited", "newer", "other JSON"],
)
def test_a_record_that_was_changed_is_refused(levels, tmp_path, change, message):
    content = json.loads((levels.folder / RECORD).read_text(encoding="utf8"))
    (tmp_path / RECORD).write_text(json.dumps(change(content)), encoding="utf8")
    with pytest.raises(LevelsError, match=message):
        read_record(tmp_path)


def test_a_record_that_is_no_json_is_refused(tmp_path):
    (tmp_path / RECORD).write_text("{", encoding="utf8")
    with pytest.raises(LevelsError, match="cannot be read"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sparsities": ()}, "sparsities must be one or more in (0, 1), each once and ascending, got []"),
        (
            {"sparsities": (0.5, 0.4)},
            "sparsities must be one or more in (0, 1), each once and ascending, got [0.5, 0.4]",
        ),
        ({"sparsities": (0.5, 1)}, "sparsities must be one or more in (0, 1), each once and ascending, got [0.5, 1.0]"),
        ({"damping": 0}, "damping: Input should be greater than 0, got 0"),
        ({"inputs": "sparse"}, "inputs: Input should be 'dense' or 'pruned', got 'sparse'"),
        ({"levels": 3}, "unknown field 'levels'"),
    ],
)
def test_settings_out_of_range_are_refused(fields, message):
    with pytest.raises(LevelsError) as caught:
        LevelSettings.of(**fields)
    assert str(caught.value) == message


def test_differences_have_both_values(levels):
    other = levels.record.model_copy(update={"dtype": "float32", "settings": LevelSettings(damping=0.1)})
    assert levels.record.differences(levels.record) == []
    assert levels.record.differences(other)[0] == "dtype is 'bfloat16' there and 'float32' here"
    assert "damping is 0.01 there and 0.1 here" in levels.record.differences(other)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_file(tmp_path / "a", b"old")

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(LevelsError, match="a cannot be written: No space left on device"):
        write_file(tmp_path / "a", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]
