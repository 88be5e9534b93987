import pytest
import torch
import transformers as tf
from tiny import FAMILIES, OTHERS, VOCABULARY, tiny_model

from unicuco_plugin.errors import EvaluationError, UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.families.family import Family
from unicuco_plugin.models.families.known import FAMILIES as KNOWN

WINDOWS = torch.randint(3, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))


def fingerprint_of(model):
    """Everything that running could change: weights, buffers, the modules' own attributes and hooks."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    places = {
        name: (sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks), module.training)
        for name, module in model.named_modules()
    }
    return state | buffers, places, model.config.to_dict()


def assert_unchanged(model, before):
    tensors, places, config = before
    now = fingerprint_of(model)
    assert now[0].keys() == tensors.keys()
    assert all(torch.equal(now[0][name], value) for name, value in tensors.items())
    assert now[1:] == (places, config)


class BoomError(Exception):
    """Raised inside a block."""


@pytest.mark.slow
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_embedding_then_every_block_then_the_head_is_the_models_own_forward(family):
    model = tiny_model(family)
    before = fingerprint_of(model)
    runner = BlockRunner(find_decoder(model), WINDOWS.shape[1])
    states = runner.embed(WINDOWS)
    for index in range(6):
        states = runner.run(index, states)
    logits = runner.logits(states)
    assert_unchanged(model, before)
    with torch.inference_mode():
        expected = model(input_ids=WINDOWS, use_cache=False).logits
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["bloom", "gemma3", "xglm"])
def test_a_batch_that_was_never_embedded_runs_as_well(family):
    runner = BlockRunner(find_decoder(tiny_model(family)), WINDOWS.shape[1])
    states = runner.embed(WINDOWS)
    whole = runner.run(1, states)
    parts = torch.cat([runner.run(1, part) for part in (states[:1], states[1:])])
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(runner.run(1, states[:, :7]), whole[:, :7], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_the_head_needs_no_neighbouring_positions(family):
    model = tiny_model(family)
    runner = BlockRunner(find_decoder(model), WINDOWS.shape[1])
    states = runner.embed(WINDOWS)
    parts = torch.cat([runner.logits(part) for part in states.split(5, dim=1)], dim=1)
    torch.testing.assert_close(parts, runner.logits(states), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("moment", ["record", "embed", "logits", "run"])
def test_an_exception_leaves_the_model_as_it_was(moment, monkeypatch):
    model = tiny_model("llama")
    decoder = find_decoder(model)
    broken = model.model.norm if moment in {"embed", "logits"} else decoder.blocks[2].mlp
    runner = None if moment == "record" else BlockRunner(decoder, WINDOWS.shape[1])
    states = None if runner is None else runner.embed(WINDOWS)
    before = fingerprint_of(model)

    def boom(*_, **__):
        raise BoomError

    with monkeypatch.context() as patch:
        patch.setattr(type(broken), "forward", boom)
        with pytest.raises(BoomError):
            match moment:
                case "record":
                    BlockRunner(decoder, WINDOWS.shape[1])
                case "embed":
                    runner.embed(WINDOWS)
                case "logits":
                    runner.logits(states)
                case _:
                    runner.run(2, states)
    assert_unchanged(model, before)


def test_a_forward_that_somebody_else_put_on_a_block_is_there_afterwards():
    model = tiny_model("llama")
    block = model.model.layers[3]
    own, calls = block.forward, []

    def counting(*args, **kwargs):
        calls.append(1)
        return own(*args, **kwargs)

    block.forward = counting
    runner = BlockRunner(find_decoder(model), WINDOWS.shape[1])
    states = runner.embed(WINDOWS)
    assert block.__dict__["forward"] is counting
    runner.run(3, states)
    assert len(calls) == 2  # once recorded, once run; never for the embedding


def given_the_text(model):
    def scale(_, args, kwargs):
        cos, sin = kwargs["position_embeddings"]
        return args, kwargs | {"position_embeddings": (cos * args[0].mean(), sin)}

    model.model.layers[2].register_forward_pre_hook(scale, with_kwargs=True)


def halved_between(model):
    model.model.layers[3].register_forward_pre_hook(lambda _, args: (args[0] / 2, *args[1:]))


def run_twice(model):
    forward = model.model.forward

    def again(**kwargs):
        forward(**kwargs)
        return forward(**kwargs)

    model.model.forward = again


def returning_nothing(model):
    model.model.layers[1].register_forward_hook(lambda *_: {"states": 1})


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (
            given_the_text,
            r"LlamaForCausalLM: model\.layers\.2 is given more than states and positions, which depends on",
        ),
        (halved_between, r"LlamaForCausalLM: what enters model\.layers\.3 is not what leaves the block before it, so"),
        (run_twice, r"LlamaForCausalLM: what enters model\.layers\.0 is not what leaves the block before it, so"),
        (
            returning_nothing,
            r"model\.layers\.1: expected it to return states, or a tuple that begins with them, got di",
        ),
    ],
)
def test_a_model_whose_blocks_do_not_run_one_by_one_is_refused(odd, message):
    model = tiny_model("llama")
    odd(model)
    with pytest.raises(UnsupportedModelError, match=f"^{message}"):
        BlockRunner(find_decoder(model), WINDOWS.shape[1])


def test_blocks_that_read_what_an_earlier_one_kept_are_refused(monkeypatch):
    monkeypatch.setitem(KNOWN, "gemma4_text", Family(ties={}))  # which say so beforehand
    config = tiny_model("gemma4", blocks=4).config.to_dict() | {"num_kv_shared_layers": 2}
    model = tf.Gemma4ForCausalLM(tf.Gemma4TextConfig.from_dict(config)).eval()
    with pytest.raises(UnsupportedModelError, match=r"is given more than states and positions, which depends on"):
        BlockRunner(find_decoder(model), WINDOWS.shape[1])


def test_a_model_that_changes_states_between_its_blocks_is_refused():
    message = r"^RwkvForCausalLM: what enters rwkv\.blocks\.6 is not what leaves the block before it"
    with pytest.raises(UnsupportedModelError, match=message):
        BlockRunner(find_decoder(tiny_model("rwkv", blocks=7)), WINDOWS.shape[1])


def test_states_beyond_the_range_of_a_dtype_are_refused_with_the_block_and_a_dtype():
    model = tiny_model("llama").to(torch.float16)
    model.model.layers[2].mlp.down_proj.weight.data.fill_(6e4)
    message = r"^block model\.layers\.2 gives values that are not finite in float16; take --dtype bfloat16 or float32$"
    with pytest.raises(EvaluationError, match=message):
        BlockRunner(find_decoder(model), WINDOWS.shape[1])


def test_states_that_are_not_finite_on_some_text_alone_are_refused_where_they_arise():
    model = tiny_model("llama")
    runner = BlockRunner(find_decoder(model), WINDOWS.shape[1])
    states = runner.embed(WINDOWS).clone()
    states[1, 3] = torch.inf
    with pytest.raises(
        EvaluationError, match=r"^block model\.layers\.4 gives values that are not finite in float32; no"
    ):
        runner.run(4, states)
