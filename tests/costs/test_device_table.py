"""Tables of times: between what was measured, corrected by what was observed, and refused where they do not fit."""

import json

import pytest
from device_tables import DEVICE, made_table, seen

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.timings import Shape
from unicuco_plugin.errors import DeviceTableError, ModelMismatchError
from unicuco_plugin.strategy import ModelReference

TABLE = made_table("a.b")


def test_a_table_that_was_written_is_read_back(tmp_path):
    TABLE.write(tmp_path / "t.json")
    assert DeviceTable.read(tmp_path / "t.json") == TABLE


def test_times_between_two_loads_lie_between_theirs():
    whole, times = TABLE.at("decode", 1, 100)
    assert whole == pytest.approx(8.0 + 30 * (1.0 + 2.05))
    assert TABLE.at("prefill", 4, 300)[1][0] == pytest.approx([12.0 * ms for ms in (1.0, 6.0, 8.0, 10.0)])
    between, halfway = TABLE.at("decode", 2, 200)
    assert halfway[0] == pytest.approx([2.0 * 2.0 * ms for ms in times[0]])
    assert between == pytest.approx(2.0 * (8.0 + 30 * (2.0 + 2.05)))


@pytest.mark.parametrize(("batch", "context", "name"), [(1, 99, "context"), (1, 301, "context"), (5, 100, "batch")])
def test_a_load_that_was_not_measured_is_refused(batch, context, name):
    with pytest.raises(DeviceTableError, match=rf"{name} must be in \d+ to \d+, .* profile the device with --{name}"):
        TABLE.at("decode", batch, context)


def test_predictions_are_corrected_by_the_mean_of_what_was_observed_in_their_space_and_phase():
    found = seen(10.0, 11.0), seen(10.0, 10.0 / 1.1), seen(4.0, 5.0, phase="prefill"), seen(1.0, 3.0, context=300)
    table = TABLE.model_copy(update={"observations": found})
    assert table.correction("depth", "decode", 1, 100) == pytest.approx(1.0)
    assert table.correction("depth", "prefill", 1, 100) == pytest.approx(1.25)
    assert table.correction("depth", "decode", 1, 300) == pytest.approx(3.0)
    assert table.correction("structured", "prefill", 1, 100) == table.correction("depth", "prefill", 4, 100) == 1.0


def test_a_copy_with_other_times_forgets_the_old_ones():
    before = TABLE.at("decode", 1, 100)[0]
    longer = tuple(point.model_copy(update={"rest": (100.0,)}) for point in TABLE.points)
    assert TABLE.model_copy(update={"points": longer}).at("decode", 1, 100)[0] == pytest.approx(before + 92.0)


def test_another_structure_is_refused_and_other_weights_are_not():
    TABLE.check_model(ModelReference(name="fine-tune", fingerprint="a.c"))
    with pytest.raises(ModelMismatchError, match="for SmolLM2 with structure a, not for other with c: profile"):
        TABLE.check_model(ModelReference(name="other", fingerprint="c.b"))


@pytest.mark.parametrize(
    ("field", "value"), [("name", "other"), ("threads", 3), ("dtype", "bfloat16"), ("versions", {"torch": "3"})]
)
def test_another_device_is_refused_and_the_field_is_named(field, value, tmp_path):
    with pytest.raises(DeviceTableError, match=f"was measured with {field} .*, here it is "):
        DEVICE.check(DEVICE.model_copy(update={field: value}), tmp_path / "t.json")


def test_an_edited_an_unfinished_and_a_newer_table_are_refused(tmp_path):
    path = tmp_path / "t.json"
    TABLE.write(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"done": 2}))
    with pytest.raises(DeviceTableError, match="was edited or damaged: its digest does not match; profile the device"):
        DeviceTable.read(path)
    path.write_text(json.dumps(content | {"schema": 2}))
    with pytest.raises(DeviceTableError, match="device table schema must be 1, got 2"):
        DeviceTable.read(path)
    TABLE.model_copy(update={"done": 2}).write(path)
    with pytest.raises(DeviceTableError, match=r"is not finished, 2 of 3 steps are: go on .* --resume"):
        DeviceTable.read(path)
    assert DeviceTable.read(path, finished=False).done == 2
    with pytest.raises(DeviceTableError, match="no device table at"):
        DeviceTable.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"modules": {"model.layers.0": 2}},
        {"points": TABLE.points[1:]},
        {"points": (*TABLE.points, TABLE.points[0])},
        {"points": tuple(point.model_copy(update={"rest": ()}) for point in TABLE.points)},
        {"shapes": (TABLE.shapes[0], Shape(kind="mlp", widths=(1536,)))},
    ],
)
def test_a_table_that_contradicts_itself_is_refused(changes, tmp_path):
    TABLE.model_copy(update=changes).write(tmp_path / "t.json")
    with pytest.raises(DeviceTableError, match="is damaged: "):
        DeviceTable.read(tmp_path / "t.json")
