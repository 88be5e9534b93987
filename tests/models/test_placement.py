import gc
from pathlib import Path

import pytest
import torch
from compressed_tensors.offload.cache import DiskCache
from processor import SAME_BITS
from tiny import FAMILIES, OTHERS, tiny_model
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3TextConfig

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models import loading, placement
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.placement import place_model
from unicuco_plugin.models.scratch import make_scratch, remove_scratch
from unicuco_plugin.models.tensors.storage import kept_tensors, write_tensor

TOKENS = torch.arange(12).view(2, 6)


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def memory(monkeypatch):
    """How much is free, by kind of device."""
    free = {"cpu": 1e12, "cuda": 1e12}
    monkeypatch.setattr(placement, "free_memory", lambda device="cpu": free[torch.device(device).type])
    return free


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS, use_cache=False).logits


# Of the fast lane: linears, Conv1D, norms in other places, experts, and tensors that are fused in memory.
USUAL = {"llama", "gpt2", "gemma3", "qwen3_moe", "phi3"}


@pytest.mark.parametrize(
    "family",
    [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in (*FAMILIES, *OTHERS)],
)
def test_a_model_whose_blocks_are_in_its_files_is_the_same(family, tmp_path):
    tiny_model(family).save_pretrained(tmp_path)
    try:
        held = load_model(tmp_path)
    except UnsupportedModelError as error:
        pytest.skip(str(error))
    streamed = load_model(tmp_path, offload="disk")
    decoder = find_decoder(streamed)
    with kept_tensors():
        assert all(parameter.is_meta for parameter in decoder.blocks.parameters())
        assert not streamed.get_input_embeddings().weight.is_meta
    if family == "mamba" and not SAME_BITS:  # its convolution heeds how memory is aligned
        torch.testing.assert_close(logits(streamed), logits(held))
    else:
        assert torch.equal(logits(streamed), logits(held))
    assert fingerprint(streamed) == fingerprint(held)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_it_computes_in_the_dtype_that_is_asked(dtype, folder):
    held, streamed = (load_model(folder, dtype=dtype, offload=offload) for offload in ("none", "disk"))
    assert streamed.dtype == getattr(torch, dtype)
    assert torch.equal(logits(streamed), logits(held))


def test_files_of_converted_weights_are_named_by_the_tensors_that_live(folder):
    before = (folder / "model.safetensors").read_bytes()
    streamed = load_model(folder, dtype="float16", offload="disk")
    with kept_tensors():
        kept = list(find_decoder(streamed).blocks.parameters())
        files = [DiskCache.index[tensor]["safetensors_file"] for tensor in kept]
    assert [Path(file).name for file in files] == [f"ct_disk_cache_0_{id(tensor)}.safetensors" for tensor in kept]
    assert {str(file) for file in Path(files[0]).parent.iterdir()} == set(files)
    linear = streamed.model.layers[0].mlp.down_proj
    write_tensor(linear, "weight", torch.zeros_like(linear.weight))
    assert not linear.weight.any()
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_weights_are_links_to_its_own_files_which_go_with_it(folder):
    streamed = load_model(folder, offload="disk")
    with kept_tensors():
        entries = [DiskCache.index[parameter] for parameter in find_decoder(streamed).blocks.parameters()]
    links = [Path(entry["safetensors_file"]) for entry in entries]
    assert {link.resolve().parent for link in links} == {folder.resolve()}
    index = iter(DiskCache.index)
    next(index)
    del streamed, entries
    gc.collect()
    list(index)  # the save of another model, which was under way, goes on
    assert not links[0].parent.exists()
    remove_scratch(make_scratch())
    assert not any(Path(entry["safetensors_file"]).parent == links[0].parent for entry in DiskCache.index.values())


@pytest.mark.parametrize(
    ("device", "free", "offload"),
    [
        ("cpu", {"cpu": 1e6}, "none"),
        ("cpu", {"cpu": 1e5}, "disk"),
        ("cuda:1", {"cuda": 1e6}, "none"),
        ("cuda:1", {"cuda": 1e5}, "cpu"),
        ("cuda:1", {"cuda": 1e5, "cpu": 1e5}, "disk"),
    ],
)
def test_auto_takes_the_first_place_that_has_room_and_says_so(device, free, offload, memory):
    memory |= free
    model = tiny_model("llama")  # 57,000 parameters
    placed = place_model(model, torch.float32, device, "auto")
    assert (placed.device, placed.offload) == (device, offload)
    assert (placed.map is None) == (offload == "none")
    assert "0.0 GB of weights in float32" in placed.reason
    assert "are free on" in placed.reason
    assert (f"--offload {offload}" in placed.reason) == (offload != "none")


def test_the_decision_is_told_once(folder, memory):
    said = []
    memory["cpu"] = 1.0
    load_model(folder, offload="auto", tell=said.append)
    assert said == [
        "0.0 GB of weights in float32, run on cpu, blocks in files until they are needed (--offload disk): "
        "0.0 GB are free on cpu"
    ]


def test_nothing_is_said_where_nothing_was_to_be_decided(folder):
    said = []
    load_model(folder, tell=said.append)
    assert said == []


def test_everything_but_the_blocks_stays_on_the_device():
    placed = place_model(tiny_model("opt"), torch.float32, "cuda:0", "cpu")
    assert placed.map == {
        "lm_head": "cuda:0",
        "model.decoder.embed_tokens": "cuda:0",
        "model.decoder.embed_positions": "cuda:0",
        "model.decoder.final_layer_norm": "cuda:0",
        "model.decoder.layers": "cpu",
    }


def test_all_devices_are_one_where_there_is_one_or_none(folder, monkeypatch):
    assert load_model(folder, device="auto", offload="auto").device.type == "cpu"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda", 0))
    assert place_model(tiny_model("llama"), torch.float32, "auto", "none").device == "cuda:0"


@pytest.mark.parametrize(("room", "host", "offload"), [(1e6, 1e9, "none"), (1e5, 1e9, "cpu"), (1e5, 1.0, "disk")])
def test_blocks_are_spread_over_several_and_the_rest_waits(room, host, offload, memory, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda _: (room, 1e12))
    memory["cpu"] = host
    placed = place_model(tiny_model("llama", blocks=24), torch.float32, "auto", "auto")
    assert (placed.offload, placed.map) == (offload, "auto")
    assert placed.limits.keys() == {0, 1, "cpu"}
    assert (placed.limits["cpu"] > 0) == (offload == "cpu")
    assert "over 2 cuda devices" in placed.reason


def test_a_place_that_there_is_not_is_refused(folder):
    with pytest.raises(UnsupportedModelError, match="offload must be one of auto, cpu, disk, none, got 'tape'"):
        load_model(folder, offload="tape")


def say_quantised(folder):
    config = (folder / "config.json").read_text(encoding="utf8")
    quantised = config.replace("{", '{"quantization_config": {"quant_method": "compressed-tensors"},', 1)
    (folder / "config.json").write_text(quantised, encoding="utf8")


def test_a_model_that_is_quantised_is_not_offloaded(folder):
    say_quantised(folder)
    with pytest.raises(UnsupportedModelError, match="--offload disk is for models that are not quantised; leave it"):
        load_model(folder, offload="disk", prunable=False)


def test_a_load_that_fails_leaves_no_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (folder / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(UnsupportedModelError, match="its weights cannot be loaded"):
        load_model(folder, offload="disk")
    assert not list(tmp_path.glob("unicuco-offload-*"))


def test_a_folder_that_nothing_is_put_in_goes_with_the_model_too(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    spread = placement.Placement("auto", "none", {"": "cpu"})
    monkeypatch.setattr(placement, "_SPREAD", spread.map)
    with spread.loading("auto") as given:
        model = spread.put(AutoModelForCausalLM.from_pretrained(folder, **given), "auto", given)
    assert list(tmp_path.glob("unicuco-offload-*"))
    del model
    gc.collect()
    assert not list(tmp_path.glob("unicuco-offload-*"))


@pytest.mark.parametrize(("offload", "device"), [("auto", "cpu"), ("none", "auto")])
@pytest.mark.parametrize("fault", ["sketch_model", "place_model"])
def test_what_cannot_be_offloaded_is_loaded_as_it_is_unless_somebody_asked(fault, offload, device, folder, monkeypatch):
    def refuse(*_, **__):
        raise UnsupportedModelError("its blocks cannot be found")

    monkeypatch.setattr(loading, fault, refuse)
    said = []
    assert torch.equal(
        logits(load_model(folder, offload=offload, device=device, tell=said.append)), logits(tiny_model("llama"))
    )
    assert said == ["on cpu: cannot be offloaded: its blocks cannot be found"]
    with pytest.raises(UnsupportedModelError, match="its blocks cannot be found"):
        load_model(folder, offload="disk")


def test_nothing_is_sketched_or_said_of_models_that_are_quantised(folder, monkeypatch):
    say_quantised(folder)
    monkeypatch.setattr(loading, "sketch_model", None)
    said = []
    with pytest.raises(UnsupportedModelError, match="its weights cannot be loaded"):  # since they are not
        load_model(folder, offload="auto", prunable=False, tell=said.append)
    assert said == []


def test_room_is_counted_in_the_dtype_of_a_text_model():
    config = Gemma3Config(text_config=Gemma3TextConfig(dtype="float16"))
    assert loading._width(config, "auto") == torch.float16
    assert loading._width(config, "bfloat16") == torch.bfloat16
