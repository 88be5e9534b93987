"""A device profiled under a clock that only linears move, so that every time is known beforehand."""

import shutil
from functools import partial

import pytest
import torch
from device_tables import virtual_clock
from tiny import tiny_model

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.latency import TimedCosts
from unicuco_plugin.costs.measure import block_costs, half_costs, part_costs, uneven_costs
from unicuco_plugin.errors import DeviceTableError, RequestError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.surgery import drop_blocks
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.quantities import Latency, Load
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import ModelReference, Strategy
from unicuco_plugin.timing import holding, measurement, running, verify
from unicuco_plugin.timing.holding import hold_table
from unicuco_plugin.timing.measurement import Sizes, check_output, is_begun
from unicuco_plugin.timing.profile import profile_device
from unicuco_plugin.timing.running import Generation
from unicuco_plugin.timing.shapes import find_timed, narrowed
from unicuco_plugin.timing.verify import check_here, time_checkpoint, verify_latency

SIZES = {"batches": [1, 2], "contexts": [8, 16], "repeats": 2}


def reference(model):
    return ModelReference(name="tiny", fingerprint=str(fingerprint(model)))


def measure(model, path, **options):
    sizes = Sizes(**{name: options.pop(name, default) for name, default in SIZES.items()})
    return profile_device(find_decoder(model), path, reference(model), sizes, **options)


@pytest.fixture
def model():
    return tiny_model("llama", blocks=4).eval()


@pytest.fixture
def clocked(monkeypatch):
    with virtual_clock(monkeypatch):
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A finished table, and its file."""
    path = tmp_path_factory.mktemp("device") / "t.json"
    with pytest.MonkeyPatch.context() as patch, virtual_clock(patch):
        return measure(tiny_model("llama", blocks=4).eval(), path), path


@pytest.fixture
def table(measured, clocked, tmp_path):
    shutil.copy(measured[1], tmp_path / "t.json")
    return measured[0]


def predicted(costs, table, shares, load, space="depth"):
    timed = TimedCosts(costs, table, space, load)
    return {phase: timed.milliseconds(phase, costs.row(shares)).item() for phase in ("decode", "prefill")}


@pytest.mark.parametrize("load", [Load(8), Load(12, 2)])
def test_a_model_without_blocks_takes_what_was_predicted(model, table, load, tmp_path):
    said = predicted(block_costs(find_decoder(model)), table, {"model.layers.1": 1.0, "model.layers.2": 1.0}, load)
    drop_blocks(model, [1, 2])
    model.save_pretrained(tmp_path / "out")
    measured = time_checkpoint(tmp_path / "out", table.device, load)
    assert measured == pytest.approx(said)


def test_a_compact_checkpoint_takes_what_was_predicted(model, table, tmp_path):
    names = {"model.layers.0.mlp": 32, "model.layers.0.self_attn": 1, "model.layers.2.mlp": 0, "model.layers.3.mlp": 40}
    decoder = find_decoder(model)
    costs = part_costs(decoder, round_to=8)
    counts = dict(zip(costs.units, (count for count, _ in costs.table.parts), strict=True))
    shares = {name: 1.0 - width / counts[name] for name, width in names.items()}
    said = predicted(costs, table, shares, Load(8), "structured")
    apply_parts(model, KeptParts({name: tuple(range(width)) for name, width in names.items()}))
    model.save_pretrained(tmp_path / "out")
    assert time_checkpoint(tmp_path / "out", table.device, Load(8)) == pytest.approx(said)


def test_silenced_halves_save_nothing_absent_ones_and_blocks_that_leave_do(model, table):
    decoder, attention, mlp = find_decoder(model), "model.layers.1.self_attn", "model.layers.1.mlp"
    silent, absent = half_costs(decoder), uneven_costs(decoder)
    dense = predicted(silent, table, {}, Load(8))
    assert predicted(silent, table, {mlp: 1.0}, Load(8)) == pytest.approx(dense)
    block = predicted(block_costs(decoder), table, {"model.layers.1": 1.0}, Load(8))
    for costs in (silent, absent):
        assert predicted(costs, table, {attention: 1.0, mlp: 1.0}, Load(8)) == pytest.approx(block)
    saved = 1e-3 * sum(parameter.numel() for parameter in model.model.layers[1].mlp.parameters())
    assert dense["decode"] - predicted(absent, table, {mlp: 1.0}, Load(8))["decode"] == pytest.approx(saved)


def test_modules_are_narrow_for_a_while_and_then_as_they_were(model):
    decoder, ids = find_decoder(model), torch.arange(12)[None]
    before, timed = model(ids).logits, find_timed(decoder)
    widths = timed.narrow(0) | {"model.layers.0.self_attn": 0}
    with pytest.raises(KeyboardInterrupt), narrowed(decoder, timed, widths):
        [decode] = Generation(model).run(1, 8, 1)["decode"]
        assert decode > 0.0
        assert model.model.layers[1].self_attn.k_proj.out_features == widths["model.layers.1.self_attn"] * 8
        raise KeyboardInterrupt
    assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize("family", ["gpt_neox", "gemma3", "qwen3_moe", "opt", "bamba"])
def test_every_family_is_timed_in_its_own_modules(family, clocked, tmp_path):
    model = tiny_model(family).eval()
    table = measure(model, tmp_path / "t.json", batches=[1], contexts=[8], repeats=1)
    whole = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)) * 1e-3
    assert table.at("decode", 1, 8)[0] <= whole + 1e-9
    blocks = find_decoder(model).block_names
    assert all(any(name == block or name.startswith(f"{block}.") for name in table.modules) for block in blocks)


def test_a_killed_measurement_goes_on_and_keeps_what_it_had(model, measured, clocked, tmp_path):
    path = tmp_path / "t.json"

    def kill(event):
        if event.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(model, path, progress=kill)
    assert DeviceTable.read(path, finished=False).done == 5
    with pytest.raises(DeviceTableError, match="is there already; pass --resume"):
        measure(model, path)
    seen = []
    resumed = measure(model, path, resume=True, progress=lambda event: seen.append(event.done))
    assert seen == list(range(6, resumed.total + 1))
    assert resumed == DeviceTable.read(path)
    assert resumed.points == measured[0].points
    assert all(len(each) == 2 for point in resumed.points for row in point.times for each in row)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contexts": [8, 32]}, r"has contexts \[8, 16\], not \[8, 32\]: go on with the same options"),
        ({"repeats": 9}, r"has steps \d+, not \d+"),
    ],
)
def test_other_options_do_not_go_on(model, table, tmp_path, changes, message):
    with pytest.raises(DeviceTableError, match=message):
        measure(model, tmp_path / "t.json", resume=True, **changes)


def test_another_device_or_model_does_not_go_on(model, table, tmp_path):
    threads = table.device.model_copy(update={"threads": 99})
    table.model_copy(update={"device": threads}).write(tmp_path / "t.json")
    with pytest.raises(DeviceTableError, match="was measured with threads 99, here it is"):
        measure(model, tmp_path / "t.json", resume=True)
    with pytest.raises(DeviceTableError, match="was measured with threads 99"):
        check_here(tmp_path / "t.json", Load(8))


def test_what_is_no_table_is_never_replaced(tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(DeviceTableError, match="is no device table; it will not be replaced"):
        check_output(tmp_path / "notes.json", resume=False, overwrite=True)
    with pytest.raises(DeviceTableError, match="exclude each other"):
        check_output(tmp_path / "new.json", resume=True, overwrite=True)


def test_a_table_that_another_process_writes_is_waited_for_but_not_for_ever(tmp_path, monkeypatch):
    held = [hold_table(tmp_path / "t.json")]
    with pytest.raises(DeviceTableError, match="is held by another process"):
        hold_table(tmp_path / "t.json")
    monkeypatch.setattr(holding.time, "sleep", lambda _: held.pop().close())
    hold_table(tmp_path / "t.json", seconds=60.0).close()
    assert held == []


def test_two_measurements_into_one_table_do_not_write_over_each_other(model, clocked, tmp_path):
    path, refused = tmp_path / "t.json", []

    def second(_):
        for flags in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(DeviceTableError) as caught:
                check_output(path, **({"resume": False, "overwrite": False} | flags))
            refused.append(str(caught.value))
            with pytest.raises(DeviceTableError, match="is held by another process"):
                measure(model, path, **flags)

    assert measure(model, path, progress=second, batches=[1], contexts=[8]).done
    [said] = set(refused)
    assert said.startswith(f"device table {path} is held by another process, which measures into it: wait for it")
    assert measure(model, path, resume=True, batches=[1], contexts=[8]) == DeviceTable.read(path)


def test_a_table_that_came_to_be_while_another_process_held_it_stays(model, measured, tmp_path, monkeypatch):
    def take(path):
        shutil.copy(measured[1], path)  # as the other process leaves it
        return hold_table(path)

    monkeypatch.setattr(measurement, "hold_table", take)
    with pytest.raises(DeviceTableError, match="is there already; pass --resume"):
        measure(model, tmp_path / "t.json")
    assert (tmp_path / "t.json").read_bytes() == measured[1].read_bytes()


@pytest.mark.parametrize("kind", ["cuda:7", "mps", "abacus"])
def test_a_table_of_a_device_that_is_not_here_is_refused(table, tmp_path, kind):
    device = table.device.model_copy(update={"kind": kind})
    table.model_copy(update={"device": device}).write(tmp_path / "t.json")
    with pytest.raises(DeviceTableError, match=f"was measured on '{kind}', which this machine has not"):
        check_here(tmp_path / "t.json", Load(8))


def test_an_accelerator_without_a_name_is_called_by_its_kind(monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda _: object())
    assert running.describe_device(torch.device("mps:0"), "torch.float16").name == "mps"


def test_moments_are_recorded_on_the_device_that_runs_the_model(monkeypatch):
    class Event:
        def __init__(self, where, enable_timing):
            self.stream = None

        def record(self, stream=None):
            self.stream = stream

    monkeypatch.setattr(torch, "Event", Event)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda where: f"stream of {where}")
    assert running._find_now(torch.device("cuda:1"))().stream == "stream of cuda:1"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (([20_000_000], [8], 1), "batch must be 1 to 64 numbers from 1 to 10,000,000, got 20000000"),
        (([1], list(range(1, 66)), 1), "context must be .*, got 65 numbers"),
        (([1], [8], 10**9), "repeats must be 1 to 1000, got 1000000000"),
    ],
)
def test_what_no_table_has_room_for_is_refused(sizes, message):
    with pytest.raises(DeviceTableError, match=message):
        Sizes(*sizes)


def test_a_folder_that_is_missing_is_said_before_anything_is_timed(tmp_path):
    with pytest.raises(DeviceTableError, match="must lie in a folder that can be written"):
        check_output(tmp_path / "none" / "t.json", resume=False, overwrite=False)


def test_a_measurement_begun_anew_leaves_no_finished_table_behind(model, table, tmp_path, monkeypatch):
    monkeypatch.setattr(Generation, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert not is_begun(tmp_path / "t.json")
    with pytest.raises(KeyboardInterrupt):
        measure(model, tmp_path / "t.json", overwrite=True)
    assert DeviceTable.read(tmp_path / "t.json", finished=False).done == 0
    assert is_begun(tmp_path / "t.json")


def test_a_context_beyond_learned_positions_is_refused(tmp_path):
    with pytest.raises(DeviceTableError, match="context must leave 9 of the 256 positions"):
        measure(tiny_model("opt").eval(), tmp_path / "t.json", contexts=[250])


@pytest.mark.slow
def test_a_checkpoint_is_compared_with_its_prediction_and_corrects_later_ones(model, table, tmp_path, monkeypatch):
    load, file = Load(8), tmp_path / "t.json"
    said = predicted(block_costs(find_decoder(model)), table, {"model.layers.1": 1.0}, load)
    off = {phase: ms / 1.25 for phase, ms in said.items()}
    model.save_pretrained(tmp_path / "dense")
    dense = {f"dense_{phase}": table.at(phase, 1, 8)[0] for phase in said}
    strategy = Strategy(
        space="depth", model=reference(model), request=Request.of(sparsity=0.2, context=8), sparsity=0.25, params=1,
        bytes=1, source="archive", divergence=None, units={"model.layers.1": 1.0},
        latency=Latency(**off, **dense, device="x", dtype="float32"),
    )  # fmt: skip
    drop_blocks(model, [1])
    model.save_pretrained(tmp_path / "out")
    monkeypatch.setattr(verify, "_REPEATS", 1)
    check = partial(verify_latency, tmp_path / "out", file=file, dense=tmp_path / "dense")
    found = {one.phase: one for one in check(strategy)}
    assert {phase: one.measured for phase, one in found.items()} == pytest.approx(said)
    assert {phase: one.predicted for phase, one in found.items()} == off
    corrected = DeviceTable.read(file)
    assert [corrected.correction("depth", p, 1, 8) for p in ("decode", "prefill")] == pytest.approx([1.25, 1.25])
    assert {f"dense_{phase}": one.dense_measured for phase, one in found.items()} == pytest.approx(dense)
    # Measured again, what was predicted with that correction is right and changes nothing of it.
    scales = {"scale_decode": 1.25, "scale_prefill": 1.25}
    again = strategy.model_copy(update={"latency": strategy.latency.model_copy(update=said | scales)})
    # What others wrote in the meantime stays.
    monkeypatch.setattr(verify, "time_checkpoint", lambda *a, **k: corrected.write(file) or time_checkpoint(*a, **k))
    table.write(file)
    check(again)
    assert len(DeviceTable.read(file).observations) == 4
    assert DeviceTable.read(file).correction("depth", "decode", 1, 8) == pytest.approx(1.25)
    # A table that took its place meanwhile is not written over.
    longer = tuple(point.model_copy(update={"rest": (9.0,) * len(point.rest)}) for point in table.points)
    other = table.model_copy(update={"points": longer})
    monkeypatch.setattr(verify, "time_checkpoint", lambda *a, **k: other.write(file) or time_checkpoint(*a, **k))
    with pytest.raises(DeviceTableError, match="was replaced since the times were predicted from it"):
        check(again)
    assert DeviceTable.read(file) == other
    with pytest.raises(RequestError, match="needs a prediction, got none for this checkpoint in its form"):
        check(strategy.model_copy(update={"latency": None}))
