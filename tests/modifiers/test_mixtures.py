"""Mixtures of experts through the toolkit, from a dense folder to a checkpoint that Transformers loads."""

import json
import re
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import transformers as tf
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from safetensors.torch import load_file
from tiny import tiny_tokenizer
from tiny_moe import MIXTURES, tiny_mixture

from unicuco_plugin.errors import RecipeError, UnsupportedModelError
from unicuco_plugin.models.blocks.coverage import Coverage
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.modifiers.export import oneshot as exporting
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier

pytestmark = pytest.mark.slow

# A pattern of experts every second block cannot lose one block; no configuration says so.
WITHOUT_DROPS = {"jamba"}
WITHOUT_HALVES = {"granitemoehybrid", "granitemoeshared", "jamba", "lfm2_moe", "nemotron_h"}
HEAD = ["lm_head"]
ROUTERS = ["re:.*gate$", "re:.*router.*"]


@pytest.fixture(scope="session")
def mixture(tmp_path_factory):
    """Save a tiny mixture of a family with a tokenizer, once a session; return its folder."""
    folder = tmp_path_factory.mktemp("mixtures")

    def build(family):
        path = folder / family
        if not path.exists():
            tiny_mixture(family).save_pretrained(path)
            tiny_tokenizer(path)
        return path

    return build


@pytest.fixture
def drops(tmp_path):
    def write(*lines):
        path = tmp_path / "drops.txt"
        path.write_text("\n".join(lines) + "\n")
        return SparsityProfileModifier(evopress=str(path))

    return write


def uniform(share=0.5):
    return SparsityProfileModifier(peer="uniform", request={"sparsity": share})


def reload(folder):
    """As a user would: stock Transformers, nothing missing, nothing unexpected."""
    model, report = tf.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(report.values())
    return model.eval()


@contextmanager
def bypassed(block):
    def skip(_, args, kwargs, output):
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    hook = block.register_forward_hook(skip, with_kwargs=True)
    yield
    hook.remove()


@torch.no_grad()
@pytest.mark.parametrize("family", sorted(MIXTURES.keys() - WITHOUT_DROPS))
def test_a_dropped_block_is_the_dense_model_with_that_block_bypassed(family, mixture, drops, token_ids, tmp_path):
    done = prune_with_recipe(mixture(family), drops("none", "attn+mlp", "none", "none"), tmp_path / "out")
    loaded, dense = reload(done.path), load_model(mixture(family))
    with bypassed(find_decoder(dense).blocks[1]):
        expected = dense(token_ids, use_cache=False).logits
    assert torch.equal(loaded(token_ids, use_cache=False).logits, expected)
    before = dense.state_dict()
    experts = {name: tensor for name, tensor in loaded.state_dict().items() if ".experts." in name}
    assert experts
    for name, tensor in experts.items():
        was = re.sub(r"(?<=layers\.)\d+", lambda place: str([0, 2, 3][int(place[0])]), name)
        assert torch.equal(tensor, before[was])


@torch.no_grad()
@pytest.mark.parametrize("family", sorted(MIXTURES.keys() - WITHOUT_HALVES))
def test_silenced_halves_load_with_the_logits_in_memory(family, mixture, drops, token_ids, tmp_path):
    done = prune_with_recipe(mixture(family), drops("none", "mlp", "attn", "none"), tmp_path / "out")
    loaded = reload(done.path)
    assert torch.equal(loaded(token_ids, use_cache=False).logits, done.model(token_ids, use_cache=False).logits)


@torch.no_grad()
@pytest.mark.parametrize("family", MIXTURES)
def test_zeroed_experts_load_with_the_logits_in_memory_and_routers_untouched(
    family, mixture, calibration, token_ids, tmp_path
):
    recipe = [uniform(), WandaPruningModifier(sparsity=0.5, ignore=HEAD)]
    done = prune_with_recipe(mixture(family), recipe, tmp_path / "out", calibration=calibration)
    loaded, dense = reload(done.path), load_model(mixture(family))
    assert torch.equal(loaded(token_ids, use_cache=False).logits, done.model(token_ids, use_cache=False).logits)
    written = loaded.state_dict()
    zeros = 0
    for name, tensor in dense.state_dict().items():
        if ".experts." in name and "bias" not in name:
            zeros += (written[name] == 0).sum().item()
            kept = written[name] != 0
            assert torch.equal(written[name][kept], tensor[kept])  # Wanda moves nothing
        elif "router" in name or "gate." in name.replace("gate_proj.", ""):
            assert torch.equal(written[name], tensor)
    assert zeros == sum(row.exported for row in done.achieved.linears if ".experts." in row.name) > 0
    told = json.loads((done.path / "sparsity.json").read_text())
    assert told["block_weights"] == sum(p.numel() for p in find_decoder(dense).blocks.parameters())
    # Attention alone would be less than a half of the blocks; jamba's dt_proj is reached by no token.
    assert done.achieved.coverage > 0.75


@torch.no_grad()
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_the_toolkits_own_oneshot_saves_fused_experts_too(family, mixture, drops, token_ids, tmp_path):
    model = load_model(mixture(family))
    oneshot(model=model, recipe=drops("none", "none", "attn+mlp", "none"), output_dir=str(tmp_path / "out"))
    assert torch.equal(reload(tmp_path / "out")(token_ids).logits, model(token_ids).logits)


def test_the_toolkits_own_oneshot_saves_zeroed_experts_fused(mixture, calibration, token_ids, tmp_path):
    model = load_model(mixture("granitemoe"))
    data = [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in calibration]
    recipe = [uniform(), SparseGPTModifier(sparsity=0.5, ignore=HEAD)]
    oneshot(model=model, recipe=recipe, dataset=torch.utils.data.DataLoader(data, batch_size=None))
    model.save_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(reload(tmp_path / "out")(token_ids).logits, model(token_ids).logits)


def packed(*ignore):
    weights = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=16, symmetric=True)
    groups = {"all": QuantizationScheme(targets=["Linear"], weights=weights)}
    return QuantizationModifier(config_groups=groups, ignore=[*HEAD, *ROUTERS, *ignore])


def scheme(name, *ignore):
    return QuantizationModifier(scheme=name, targets="Linear", ignore=[*HEAD, *ROUTERS, *ignore])


@torch.no_grad()
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "lfm2_moe"])
def test_packed_experts_are_saved_as_linears_under_the_familys_names(family, mixture, drops, token_ids, tmp_path):
    recipe = [drops("none", "attn+mlp", "none", "none"), packed()]
    done = prune_with_recipe(mixture(family), recipe, tmp_path / "out")
    loaded = reload(done.path)
    assert torch.equal(loaded(token_ids, use_cache=False).logits, done.model(token_ids, use_cache=False).logits)
    names = load_file(done.path / "model.safetensors").keys()
    first = "gate_proj" if family == "qwen3_moe" else "w1"
    assert any(name.endswith(f".experts.3.{first}.weight_packed") for name in names)


@pytest.mark.parametrize(
    ("family", "quantiser"),
    [("mixtral", partial(scheme, "FP8_DYNAMIC", "re:.*experts.*")), ("gpt_oss", partial(packed, "re:.*experts.*"))],
    ids=["in linears", "in one tensor"],
)
@torch.no_grad()
def test_experts_left_out_of_a_quantisation_are_fused(  # noqa: PLR0917 - fixtures
    family, quantiser, mixture, drops, token_ids, tmp_path
):
    recipe = [drops("none", "attn+mlp", "none", "none"), quantiser()]
    done = prune_with_recipe(mixture(family), recipe, tmp_path / "out")
    loaded, dense = reload(done.path), load_model(mixture(family))
    assert torch.equal(loaded(token_ids, use_cache=False).logits, done.model(token_ids, use_cache=False).logits)
    assert torch.equal(loaded.model.layers[2].mlp.experts.down_proj, dense.model.layers[3].mlp.experts.down_proj)


@pytest.mark.parametrize(
    ("family", "quantiser", "reason"),
    [
        ("mixtral", scheme("INT8"), "Transformers reads quantised experts in FP8 or packed integers alone"),
        ("qwen3_moe", packed("re:.*experts.*"), "Transformers wants the experts quantised too; take experts out"),
        ("qwen3_moe", packed("re:.*experts.*down.*"), "wants all linears of the experts quantised or none"),
        ("gpt_oss", packed(), "its files hold all experts in one tensor"),
    ],
)  # fmt: skip
def test_quantised_experts_that_transformers_would_not_find_are_refused_before_a_weight_is_read(  # noqa: PLR0917
    family, quantiser, reason, mixture, drops, monkeypatch, tmp_path
):
    def fail(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(exporting, "load_model", fail)
    with pytest.raises(RecipeError, match=reason) as caught:
        prune_with_recipe(mixture(family), [drops("none", "attn+mlp", "none", "none"), quantiser], tmp_path / "out")
    assert len(str(caught.value)) <= 300


def test_a_share_beyond_what_linears_have_is_refused_by_the_modifier(mixture, calibration, monkeypatch, tmp_path):
    # A family whose linears are as few is refused before; here a model in memory stands for it.
    model = load_model(mixture("mixtral"))
    monkeypatch.setattr("unicuco_plugin.models.blocks.coverage.measure_coverage", lambda _: Coverage(1, 4))
    recipe = [uniform(), WandaPruningModifier(sparsity=0.5, ignore=HEAD)]
    with pytest.raises(
        UnsupportedModelError, match=r"25\.0% of the weights of its blocks, so a sparsity of 0\.5 cannot"
    ):
        prune_with_recipe(model, recipe, tmp_path / "out", calibration=calibration)
