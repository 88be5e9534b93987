import pytest
import torch
import transformers as tf
from tiny import FAMILIES, VOCABULARY, tiny_model, tiny_tokenizer

from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.models.loading import load_tokenizer
from unicuco_plugin.models.reach import Reach, load_reach
from unicuco_plugin.texts.calibration import load_windows
from unicuco_plugin.texts.selfcalibration import generate_windows

SMALL = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LEARNED = {
    "opt": tf.OPTConfig(**SMALL, hidden_size=16, ffn_dim=16, num_attention_heads=2, max_position_embeddings=32,
                        word_embed_proj_dim=16),
    "gpt2": tf.GPT2Config(**SMALL, n_embd=16, n_head=2, n_positions=32),
    "biogpt": tf.BioGptConfig(**SMALL, hidden_size=16, num_attention_heads=2, intermediate_size=16,
                              max_position_embeddings=32),
    "gpt_bigcode": tf.GPTBigCodeConfig(**SMALL, n_embd=16, n_head=2, n_positions=32),
    "gptj": tf.GPTJConfig(**SMALL, n_embd=16, n_head=2, n_positions=32, rotary_dim=4),
    "codegen": tf.CodeGenConfig(**SMALL, n_embd=16, n_head=4, n_positions=32, rotary_dim=4),
    "mpt": tf.MptConfig(vocab_size=VOCABULARY, d_model=16, n_heads=2, n_layers=2, max_seq_len=32),
}  # fmt: skip


def fits(model, length):
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=False)
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("family", LEARNED)
def test_positions_end_where_the_model_says_index_error(family):
    model = tf.AutoModelForCausalLM.from_config(LEARNED[family]).eval()
    assert Reach.of(model) == Reach(32, VOCABULARY)
    assert fits(model, 32)
    assert not fits(model, 33)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"opt", "gpt2"}))
def test_positions_of_other_families_do_not_end(family):
    model = tiny_model(family)
    assert Reach.of(model) == Reach(None, VOCABULARY)
    assert fits(model, 2 * 256)


def test_it_is_read_off_a_folder_without_its_weights(tmp_path):
    LEARNED["opt"].save_pretrained(tmp_path)
    assert load_reach(tmp_path) == Reach(32, VOCABULARY)


def test_windows_that_are_too_long_are_refused_before_a_text_is_read(tmp_path):
    tokenizer = load_tokenizer(saved(tmp_path))
    refused = (
        r"^windows of 33 tokens are longer than the 32 positions that the model has learned; pass --seq-length 32 or "
        r"less$"
    )
    with pytest.raises(CalibrationError, match=refused):
        load_windows([tmp_path / "nothing.txt"], tokenizer, count=1, length=33, seed=0, reach=Reach(32, VOCABULARY))
    model = tf.AutoModelForCausalLM.from_config(LEARNED["opt"]).eval()
    with pytest.raises(CalibrationError, match=refused):
        generate_windows(model, tokenizer, count=1, length=33, seed=0, cache_dir=tmp_path)


def test_tokens_without_a_row_are_refused_with_both_numbers_and_the_remedy(tmp_path):
    tokenizer = load_tokenizer(saved(tmp_path))
    text = tmp_path / "text.txt"
    text.write_text("w1 w2 w90 w3 " * 20, encoding="utf8")
    cut = {"count": 2, "length": 16, "seed": 0}
    with pytest.raises(
        CalibrationError,
        match=rf"^the tokenizer knows {VOCABULARY} tokens and writes token 94, but the model's embedding has 64 rows; "
        r"use the model's own tokenizer, or save the model with 128 rows \(model.resize_token_embeddings\)$",
    ):
        load_windows([text], tokenizer, **cut, reach=Reach(None, 64))
    assert len(load_windows([text], tokenizer, **cut, reach=Reach(None, 95))) == 2


def saved(folder):
    tiny_model("llama", blocks=2).save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder
