"""Windows that the model writes itself."""

import pytest
import torch
from compressed_tensors.offload.cache import DiskCache
from tiny import tiny_model, tiny_tokenizer

from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.tensors.storage import kept_tensors
from unicuco_plugin.texts import selfcalibration
from unicuco_plugin.texts.selfcalibration import generate_windows

BATCH = selfcalibration._BATCH


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def _generate(tokenizer, folder, *, model=None, count=3, length=10, seed=0):
    model = model or tiny_model("llama")
    return generate_windows(model, tokenizer, count=count, length=length, seed=seed, cache_dir=folder)


def test_windows_begin_with_the_first_token_and_repeat_with_their_seed(tokenizer, tmp_path):
    state = torch.random.get_rng_state()
    windows = _generate(tokenizer, tmp_path / "a")
    assert windows.shape == (3, 10)
    assert windows.dtype == torch.int64
    assert (windows[:, 0] == tokenizer.bos_token_id).all()
    assert torch.equal(windows, _generate(tokenizer, tmp_path / "b"))
    assert not torch.equal(windows, _generate(tokenizer, tmp_path / "a", seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("family", ["opt", "gemma3", "gpt_neox"])
def test_other_families_write_too(family, tokenizer, tmp_path):
    assert _generate(tokenizer, tmp_path, model=tiny_model(family)).shape == (3, 10)


@pytest.mark.slow
# Plain attention, windows that slide, states beside attention; and a model of which blocks alone give other numbers.
@pytest.mark.parametrize("family", ["llama", "gemma3", "bamba", None])
def test_a_model_in_files_writes_the_same_and_reads_each_block_once_for_all_batches(
    family, tokenizer, tmp_path, monkeypatch
):
    by_blocks, family, streaming = family is not None, family or "llama", selfcalibration._streamed
    if not by_blocks:
        monkeypatch.setattr(selfcalibration, "_streamed", lambda *given: [2 * found for found in streaming(*given)])
    tiny_model(family, blocks=4).save_pretrained(tmp_path / "model")
    asked = {"count": 2 * BATCH + 1, "length": 6}
    expected = _generate(tokenizer, tmp_path / "a", model=load_model(tmp_path / "model"), **asked)
    streamed = load_model(tmp_path / "model", offload="disk")
    norm = find_decoder(streamed).blocks[1].input_layernorm
    with kept_tensors():
        weight = norm.weight
    read, onload = [], DiskCache.onload
    monkeypatch.setattr(DiskCache, "onload", lambda cache, kept: (read.append(kept is weight), onload(cache, kept))[1])
    assert torch.equal(_generate(tokenizer, tmp_path / "b", model=streamed, **asked), expected)
    # The hash and the first look at the model; what is tried out, by either way; then once a position, or a batch.
    assert (sum(read) <= 2 + 2 * 3 + 5) == by_blocks
    read.clear()
    _generate(tokenizer, tmp_path / "b", model=streamed, **asked)
    assert sum(read) <= 1


@pytest.mark.slow
def test_no_more_batches_are_sampled_together_than_memory_has_room_for(tmp_path, monkeypatch):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    streamed = load_model(tmp_path / "model", offload="disk")
    # Six blocks, two heads of eight numbers for keys and as many for values, float32.
    batch = 6 * 2 * 2 * 8 * 4 * BATCH * 100
    for room, expected in ((0.5, 1), (1.5, 1), (3.5, 3), (100, selfcalibration._TOGETHER)):
        monkeypatch.setattr(selfcalibration, "spare_memory", lambda _, room=room: room * batch)
        assert selfcalibration._by_blocks(streamed, 100)[0] == expected


def test_more_windows_extend_those_already_cached(tokenizer, tmp_path, monkeypatch):
    few = _generate(tokenizer, tmp_path)
    more = _generate(tokenizer, tmp_path, count=BATCH + 2)
    assert torch.equal(more[:3], few)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(selfcalibration, "_sample", pytest.fail)
    assert torch.equal(_generate(tokenizer, tmp_path, count=BATCH + 2), more)


def test_another_models_cache_is_not_used(tokenizer, tmp_path):
    one = _generate(tokenizer, tmp_path)
    assert not torch.equal(one, _generate(tokenizer, tmp_path, model=tiny_model("llama", seed=1)))


def test_a_damaged_cache_is_written_again(tokenizer, tmp_path):
    windows = _generate(tokenizer, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"half")
    assert torch.equal(_generate(tokenizer, tmp_path), windows)
    assert path.stat().st_size > 100


def test_sampling_follows_the_models_distribution(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(selfcalibration, "_BATCH", 4000)
    monkeypatch.setattr(selfcalibration, "_HOT", 1.0)
    model = tiny_model("llama")
    windows = _generate(tokenizer, tmp_path, model=model, count=4000, length=2)
    found = torch.bincount(windows[:, 1], minlength=128) / 4000
    expected = model(torch.tensor([[tokenizer.bos_token_id]])).logits[0, -1].softmax(-1)
    assert (found - expected).abs().max() < 0.03


def test_tokens_that_the_tokenizer_cannot_spell_are_never_sampled(tokenizer, tmp_path, monkeypatch):
    class Short:
        bos_token_id = eos_token_id = 1

        def __len__(self):
            return 20

    assert _generate(Short(), tmp_path, length=30).max() < 20


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"count": 0}, "count must be at least 1, got 0"), ({"length": 1}, "length must be at least 2, got 1")],
)
def test_numbers_are_checked(numbers, message, tokenizer, tmp_path):
    with pytest.raises(CalibrationError, match=f"^{message}$"):
        _generate(tokenizer, tmp_path, **numbers)


def test_a_cache_that_cannot_be_written_is_named(tokenizer, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CalibrationError, match=r"^self-calibration cache .*file cannot be written: "):
        _generate(tokenizer, tmp_path / "file")
