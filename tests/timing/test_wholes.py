"""vLLM profiled as a whole: a stub of it takes what a configuration says, so that every time is known beforehand."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import torch
from tiny import tiny_model
from vllm_stub import ATTENTION, MLP, REST, STORED, write_stub

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.latency import TimedCosts, under_load
from unicuco_plugin.costs.measure import block_costs, half_costs, part_costs, uneven_costs
from unicuco_plugin.costs.stored import scheme_costs
from unicuco_plugin.costs.untimed import why_untimed
from unicuco_plugin.errors import DeviceTableError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.surgery import drop_blocks
from unicuco_plugin.models.fused_units import fused_units
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.quantities import Latency, Load
from unicuco_plugin.report.device import describe_table
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import ModelReference, Strategy
from unicuco_plugin.timing import vllm_engine
from unicuco_plugin.timing.measurement import Sizes
from unicuco_plugin.timing.variants import find_variants
from unicuco_plugin.timing.verify import check_here, time_checkpoint, verify_latency
from unicuco_plugin.timing.vllm_engine import VllmEngine
from unicuco_plugin.timing.wholes import profile_wholes

SIZES = {"batches": [1, 2], "contexts": [8, 16], "repeats": 2}
DENSE = REST + 4 * (ATTENTION + MLP)


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    return write_stub(tmp_path_factory.mktemp("stub"))


@pytest.fixture
def engine(stub, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(stub))
    return VllmEngine(sys.executable)


SCHEMES = ("W8A16:channel", "W4A16:channel")


def reference(model):
    return ModelReference(name="tiny", fingerprint=str(fingerprint(model)))


def measure(model, path, engine, **options):
    variants = find_variants(find_decoder(model), options.pop("schemes", ()))
    sizes = Sizes(**{name: options.pop(name, default) for name, default in SIZES.items()})
    return profile_wholes(variants, path, reference(model), engine, sizes, **options)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", blocks=4).eval()


@pytest.fixture(scope="module")
def measured(model, stub, tmp_path_factory):
    path = tmp_path_factory.mktemp("device") / "t.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(stub))
        return measure(model, path, VllmEngine(sys.executable)), path


def predicted(costs, table, shares, load, space="depth"):
    timed = TimedCosts(costs, table, space, load)
    return {phase: timed.milliseconds(phase, costs.row(shares)).item() for phase in ("decode", "prefill")}


@pytest.mark.slow
def test_whole_models_tell_what_their_modules_take(model, measured):
    table, _ = measured
    assert (table.device.engine, table.device.name, table.device.eager) == ("vllm", "a card", False)
    decode, halves = table.at("decode", 1, 8)
    assert decode == pytest.approx(DENSE)
    attention, mlp = halves
    assert attention == pytest.approx([0.0, ATTENTION])
    widths = table.shapes[1].widths
    assert len(widths) > 2
    assert mlp == pytest.approx([MLP * width / widths[-1] for width in widths])
    assert table.at("prefill", 2, 16)[0] == pytest.approx(0.1 * DENSE * 32)
    assert table.at("decode", 2, 8)[0] == pytest.approx(2 * DENSE)
    assert all(len(each) == 2 for point in table.points for row in point.times for each in row)
    assert "vllm" in describe_table(table)


@pytest.mark.slow
@pytest.mark.parametrize("load", [Load(8), Load(12, 2)])
def test_an_uneven_checkpoint_takes_what_was_predicted(measured, engine, load, tmp_path):
    model, table = tiny_model("llama", blocks=4).eval(), measured[0]
    gone = ["model.layers.1.self_attn", "model.layers.1.mlp", "model.layers.2.mlp", "model.layers.3.self_attn"]
    said = predicted(uneven_costs(find_decoder(model)), table, dict.fromkeys(gone, 1.0), load, "sublayer")
    apply_parts(model, KeptParts(dict.fromkeys(gone, ())), format="deci")
    model.save_pretrained(tmp_path / "out")
    taken = time_checkpoint(tmp_path / "out", table.device, load, engine.python, own_code=True)
    assert taken == pytest.approx(said)


def stored_costs(decoder, names, blocks=None):
    units = {unit.name: unit.linears for unit in fused_units(decoder.model) if unit.name != "lm_head"}
    costs = scheme_costs(decoder, units, dict.fromkeys(units, names))
    if blocks is None:
        return costs
    gone = tuple((*row, ("removed", 0.0, 0)) for row in costs.table.choices)
    return replace(costs, table=costs.table.model_copy(update={"choices": gone, "blocks": blocks}))


@pytest.fixture(scope="module")
def stored(model, stub, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(stub))
        path = tmp_path_factory.mktemp("device") / "t.json"
        return measure(model, path, VllmEngine(sys.executable), schemes=SCHEMES, repeats=1)


@pytest.mark.slow
def test_units_in_schemes_save_what_each_was_seen_to(model, stored):
    decoder = find_decoder(model)
    costs = TimedCosts(stored_costs(decoder, SCHEMES), stored, "precision", Load(8, 2))
    assert not why_untimed(replace(costs.costs, device=stored))
    units = costs.costs.units
    assert {len(kind.units) for kind in stored.stored} == {4}
    place = {name: k for k, (name, *_) in enumerate(costs.costs.table.choices[0])}
    x = torch.zeros(1, len(units), dtype=torch.float64)
    first, second = "model.layers.0.self_attn.q_proj+k_proj+v_proj", "model.layers.2.mlp.down_proj"
    for unit, scheme in ((first, "W4A16:channel"), (second, "W8A16:channel")):
        x[0, units.index(unit)] = costs.costs.shares[units.index(unit), place[scheme]]
    saved = 3 * STORED[4] + STORED[8]
    assert costs.milliseconds("decode", x).item() == pytest.approx(2 * (DENSE - saved))
    assert costs.latency(x).engine == "vllm"


@pytest.mark.slow
def test_a_scheme_that_was_not_timed_has_no_time_and_a_block_that_leaves_has(model, stored):
    decoder, block = find_decoder(model), "model.layers.1"
    plain = replace(
        stored_costs(decoder, ("W4A16:channel", "W2A16:channel"), {block: (1, 1)}), device=stored, space="compound"
    )
    assert "no times of W2A16:channel, which its strategies may have" in why_untimed(plain)
    costs = under_load(plain, Load(8))
    assert "latency" not in costs.names
    x = torch.zeros(1, len(plain.units), dtype=torch.float64)
    x[0, [index for index, unit in enumerate(plain.units) if unit.startswith(f"{block}.")]] = 1.0
    assert costs.latency(x).decode == pytest.approx(DENSE - ATTENTION - MLP)
    x[0, 0] = plain.shares[0, [name for name, *_ in plain.table.choices[0]].index("W2A16:channel")]
    assert costs.latency(x) is None


@pytest.mark.slow
def test_other_schemes_do_not_go_on(model, stored, engine, tmp_path):
    stored.write(tmp_path / "t.json")
    with pytest.raises(DeviceTableError, match="has schemes W8A16:channel, W4A16:channel: go on with"):
        measure(model, tmp_path / "t.json", engine, schemes=SCHEMES[::-1], repeats=1, resume=True)


@pytest.mark.slow
def test_a_model_that_vllm_loads_in_whole_blocks_alone_is_timed_so(engine, tmp_path):
    model = tiny_model("gemma3").eval()
    table, decoder = measure(model, tmp_path / "t.json", engine, repeats=1), find_decoder(model)
    assert sorted(table.modules) == sorted(decoder.block_names)
    first = decoder.block_names[0]
    for costs, shares in (
        (block_costs(decoder), {first: 1.0}),
        (half_costs(decoder), {f"{first}.self_attn": 1.0, f"{first}.mlp": 1.0}),
    ):
        said = predicted(costs, table, shares, Load(8))
        assert said["decode"] == pytest.approx(table.at("decode", 1, 8)[0] - ATTENTION - MLP)
    silent = predicted(half_costs(decoder), table, {f"{first}.mlp": 1.0}, Load(8))
    assert silent["decode"] == pytest.approx(table.at("decode", 1, 8)[0])


@pytest.mark.slow
def test_a_killed_measurement_goes_on_in_the_middle_of_a_round(model, measured, engine, tmp_path):
    path = tmp_path / "t.json"

    def kill(event):
        if event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(model, path, engine, progress=kill)
    assert len(DeviceTable.read(path, finished=False).wholes) == 2 * 4
    assert measure(model, path, engine, resume=True) == measured[0]


@pytest.mark.slow
def test_a_checkpoint_and_the_dense_model_are_timed_by_vllm_and_correct_the_table(model, measured, engine, tmp_path):
    file = tmp_path / "t.json"
    file.write_bytes(measured[1].read_bytes())
    own = tiny_model("llama", blocks=4).eval()
    own.save_pretrained(tmp_path / "dense")
    drop_blocks(own, [1])
    own.save_pretrained(tmp_path / "out")
    load, table = Load(8), measured[0]
    said = {phase: ms / 1.25 for phase, ms in {"decode": 14.0, "prefill": 11.2}.items()}
    dense = {f"dense_{phase}": table.at(phase, 1, 8)[0] for phase in said}
    strategy = Strategy(
        space="depth", model=reference(model), request=Request.of(sparsity=0.2, context=8), sparsity=0.25, params=1,
        bytes=1, source="archive", divergence=None, units={"model.layers.1": 1.0},
        latency=Latency(**said, **dense, device="x", dtype="float32"),
    )  # fmt: skip
    verify_latency(tmp_path / "out", strategy, file, tmp_path / "dense", python=Path(engine.python))
    assert DeviceTable.read(file).correction("depth", "decode", 1, 8) == pytest.approx(1.25)
    with pytest.raises(DeviceTableError, match="vllm-python must be a Python that can be started"):
        check_here(file, load, tmp_path / "nowhere")


@pytest.mark.slow
def test_narrower_mlps_and_absent_attentions_are_told_where_vllm_loads_them(model, measured):
    decoder = find_decoder(model)
    costs = part_costs(decoder, round_to=8, compensate=False, uneven=True)
    assert not why_untimed(_with(costs, measured[0]))
    widths = measured[0].shapes[1].widths
    shares = {"model.layers.2.self_attn": 1.0, "model.layers.3.mlp": 1.0 - widths[1] / widths[-1]}
    said = predicted(costs, measured[0], shares, Load(8), "structured")
    assert said["decode"] == pytest.approx(DENSE - ATTENTION - MLP * (1.0 - widths[1] / widths[-1]))


@pytest.mark.slow
def test_what_is_cut_is_not_told_of_vllm(model, measured):
    costs = part_costs(find_decoder(model), round_to=8)
    assert why_untimed(_with(costs, measured[0])).startswith("vLLM does not load the form compact")


def _with(costs, table):
    return type(costs)(costs.units, costs.table, costs.physical, device=table, space="structured")


@pytest.mark.slow
def test_what_vllm_says_is_said(engine, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "refused"}')
    with pytest.raises(DeviceTableError, match=r"vLLM at .* failed: ValueError: No class for models of this kind"):
        engine.time(tmp_path, "float32", [(1, 8)], repeats=1)


def test_a_python_without_vllm_is_refused(monkeypatch):
    monkeypatch.setattr(vllm_engine, "find_spec", lambda _: None)
    with pytest.raises(DeviceTableError, match="got none: --vllm-python FILE"):
        VllmEngine.find(None)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(DeviceTableError, match="failed: ModuleNotFoundError: No module named 'vllm'"):
        VllmEngine.find(sys.executable).describe("float32")


@pytest.mark.slow
def test_sequences_that_have_to_wait_for_room_are_no_batch(engine, model, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_ROOM", "2")
    with pytest.raises(DeviceTableError, match="4 sequences of 16 tokens do not fit into vLLM's cache at once"):
        measure(model, tmp_path / "t.json", engine, batches=[4], contexts=[16])
    table = measure(model, tmp_path / "t.json", engine, batches=[2], contexts=[16], repeats=1, overwrite=True)
    assert table.at("decode", 2, 16)[0] == pytest.approx(2 * DENSE)


@pytest.mark.slow
def test_the_dense_models_time_is_that_measured_whatever_its_parts_add_up_to(measured):
    table, _ = measured
    noisy = []
    for place, one in enumerate(table.wholes):
        noisy.append(one.model_copy(update={"decode": one.decode * (1.0 + 0.03 * (place % 3 - 1))}))
    changed = table.model_copy(update={"wholes": tuple(noisy)})
    of_dense = [one.decode for one in noisy if (one.variant, one.batch, one.context) == ("dense", 1, 8)]
    assert changed.at("decode", 1, 8)[0] == pytest.approx(median(of_dense))


@pytest.mark.slow
def test_what_pydantic_says_of_a_setting_is_said(engine, model, tmp_path):
    model.config.save_pretrained(tmp_path)
    with pytest.raises(DeviceTableError, match="failed: Value error, max_model_len is too large"):
        engine.time(tmp_path, "float32", [(1, 10**7)], repeats=1, dummy=True)


@pytest.mark.slow
def test_vllm_ends_with_whoever_asked(stub, model, tmp_path, monkeypatch):
    told = tmp_path / "process"
    model.config.save_pretrained(tmp_path / "model")
    script = (
        "import sys; from unicuco_plugin.timing.vllm_engine import VllmEngine; "
        f"VllmEngine(sys.executable).time({str(tmp_path / 'model')!r}, 'float32', [(1, 8)], repeats=1, dummy=True)"
    )
    paths = os.pathsep.join([str(stub), *filter(None, sys.path)])
    with subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": paths, "STUB_WAITS": str(told)}
    ) as asker:
        wait_until(told.exists)
        asker.kill()
    wait_until(lambda: not Path(f"/proc/{told.read_text()}/stat").exists())


def wait_until(met):
    end = time.monotonic() + 120.0
    while not met():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_units_of_a_kind_but_other_sizes_are_told_apart():
    variants = find_variants(find_decoder(tiny_model("gemma4")), ["W8A16:channel", "W8A16:channel"])
    names = [variant.name for variant in variants.every]
    assert len(set(names)) == len(names)
    assert len({(kind.units, kind.scheme) for kind in variants.stored}) == len(variants.stored)


def test_the_dense_model_is_vllms_own_class_whatever_its_configuration_names(tmp_path):
    model = tiny_model("llama")
    model.config.auto_map = {"AutoModelForCausalLM": "somebody.Else"}
    dense, attention = find_variants(find_decoder(model)).every[:2]
    for variant, own, name in ((dense, False, "LlamaForCausalLM"), (attention, True, "DeciLMForCausalLM")):
        folder = tmp_path / name
        folder.mkdir()
        variant.write(folder, "LlamaForCausalLM")
        written = json.loads((folder / "config.json").read_text())
        assert variant.own_code == own == ("auto_map" in written)
        assert written["architectures"] == [name]
    assert model.config.architectures != ["DeciLMForCausalLM"]


def test_a_single_block_cannot_be_timed():
    with pytest.raises(DeviceTableError, match="must have two blocks or more"):
        find_variants(find_decoder(tiny_model("llama", blocks=1)))
