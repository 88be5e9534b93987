"""A database of schemes built, resumed, read and decoded; and what is refused."""

import re
from types import SimpleNamespace

import pytest
import torch
from broken_builds import built_in_two_goes, contents
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from tiny import VOCABULARY, tiny_model, tiny_tokenizer
from tiny_moe import tiny_mixture

from unicuco_plugin.errors import LevelsError, ModelMismatchError
from unicuco_plugin.levels import stream
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.packed import predict_packed_bytes
from unicuco_plugin.levels.record import RECORD, read_record, write_record
from unicuco_plugin.levels.scheme_levels import SchemeLevels, open_levels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.levels.toolkit_scheme import as_toolkit
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.schemes import parse_scheme

WINDOWS = torch.randint(3, VOCABULARY, (6, 16), generator=torch.Generator().manual_seed(0))
# Tiny linears have 32 and 48 inputs: no group divides 48.
SCHEMES = ("W3A16:channel", "W4A16:channel:asym", "W8A16", "NVFP4A16", "W8A8")


@pytest.fixture(scope="session")
def scheme_settings():
    return LevelSettings(schemes=SCHEMES, block_size=20, batch_windows=4)


@pytest.fixture(scope="session")
def scheme_levels(scheme_settings, tmp_path_factory):
    """The database of the tiny model; tests only read it."""
    dense = find_decoder(tiny_model("llama", blocks=2).to(torch.bfloat16))
    folder = tmp_path_factory.mktemp("schemes") / "db"
    return build_levels(dense, WINDOWS, folder, name="tiny", settings=scheme_settings)


def test_every_linear_is_stored_in_every_scheme_that_fits_it(scheme_levels, decoder):
    assert isinstance(scheme_levels, SchemeLevels)
    assert scheme_levels.path == scheme_levels.folder
    assert scheme_levels.schemes == SCHEMES
    linears = decoder.all_linears()
    assert list(scheme_levels.shapes) == list(linears)
    scheme_levels.verify()
    scheme_levels.check_model(str(fingerprint(decoder.model)))
    for name, linear in linears.items():
        fine = ["W8A16:g32"] if linear.in_features == 32 else []
        names = [*fine, "W8A8", "NVFP4A16", "W4A16:channel:asym", "W3A16:channel"]
        offered = scheme_levels.offered(name)
        assert sorted(scheme.name for scheme in offered) == sorted(names)
        bits = [scheme.bits_per_weight(linear.in_features) for scheme in offered]
        assert bits == sorted(bits, reverse=True)
        errors = {}
        for scheme in offered:
            weight = scheme_levels.decode(name, scheme.name)
            assert weight.shape == linear.weight.shape
            assert weight.dtype == torch.bfloat16
            errors[scheme.name] = (weight - linear.weight).float().square().mean().sqrt() / linear.weight.float().std()
            assert scheme_levels.loss(name, scheme.name) > 0
        assert errors["W8A8"] < 0.02
        assert errors["W3A16:channel"] < 0.5
        assert errors["W8A8"] < errors["NVFP4A16"] < errors["W3A16:channel"]
    assert sum(entry.bytes for entry in scheme_levels.record.linears.values()) == predict_packed_bytes(
        scheme_levels.shapes, SCHEMES, "bfloat16"
    )


@pytest.mark.parametrize("name", ["W4A16:channel:asym", "W8A16", "NVFP4A16", "W8A8"])
def test_a_level_is_what_the_toolkits_own_pass_makes_of_the_dense_models_inputs(name, scheme_settings, tmp_path):
    tiny_model("llama", blocks=2).save_pretrained(tmp_path)
    tiny_tokenizer(tmp_path)
    model, linear, scheme = load_model(tmp_path), "model.layers.1.self_attn.o_proj", parse_scheme(name).for_inputs(32)
    built = build_levels(find_decoder(model), WINDOWS, tmp_path / "db", name="tiny", settings=scheme_settings)
    # One linear alone, whose inputs are then those of the dense model, as in the database.
    rows = [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in WINDOWS]
    group = as_toolkit(scheme).model_copy(update={"targets": [linear]}, deep=True)
    engine = GPTQModifier(config_groups={"group_0": group}, block_size=20)
    data = torch.utils.data.DataLoader(rows, batch_size=None)
    oneshot(model=model, dataset=data, recipe=engine, pipeline="basic")
    made = model.get_submodule(linear).weight.detach()
    mine = built.decode(linear, scheme.name)
    # NVFP4 is decoded in bfloat16.
    assert ((made - mine).abs() <= 1e-2 * made.abs()).float().mean() > 0.999


@pytest.mark.parametrize("inputs", ["dense", pytest.param("pruned", marks=pytest.mark.slow)])
@pytest.mark.parametrize("linears", [pytest.param(1, marks=pytest.mark.slow), 9])
def test_a_build_that_was_broken_off_ends_as_an_unbroken_one(
    *, inputs, linears, decoder, scheme_levels, scheme_settings, tmp_path, monkeypatch
):
    arguments = {"name": "tiny", "settings": scheme_settings.model_copy(update={"inputs": inputs})}
    whole = scheme_levels
    if inputs == "pruned":
        whole = build_levels(decoder, WINDOWS, tmp_path / "whole", **arguments)
        other = contents(scheme_levels.folder)
        same = {name: other[name] == digest for name, digest in contents(whole.folder).items()}
        assert all(equal is ("layers.0" in name) for name, equal in same.items())
    again = built_in_two_goes(monkeypatch, linears, decoder, WINDOWS, tmp_path / "broken", **arguments)
    assert contents(again.folder) == contents(whole.folder)


def test_both_kinds_are_told_apart(scheme_levels, levels):
    with pytest.raises(LevelsError, match=r"holds schemes, for the spaces precision and compound; .* --sparsities"):
        Levels.open(scheme_levels.folder)
    with pytest.raises(LevelsError, match=r"holds sparsities, for the space sparsity; .* build --schemes"):
        SchemeLevels.open(levels.folder)
    assert isinstance(open_levels(levels.folder), Levels)
    assert isinstance(open_levels(scheme_levels.folder), SchemeLevels)


def test_a_build_of_one_kind_does_not_go_on_in_a_folder_of_the_other(decoder, levels, scheme_settings, tmp_path):
    write_record(tmp_path, levels.record.model_copy(update={"linears": {}}))
    with pytest.raises(LevelsError, match=r"sparsities is \(0\.3, 0\.5, 0\.8\) there and None here; .*schemes is None"):
        build_levels(decoder, WINDOWS, tmp_path, name="tiny", settings=scheme_settings, resume=True)


def test_what_the_database_lacks_is_refused(scheme_levels):
    name = "model.layers.0.mlp.down_proj"
    with pytest.raises(LevelsError, match="has no linear 'lm_head'"):
        scheme_levels.offered("lm_head")
    message = r"down_proj in W8A8, NVFP4A16, .*, not in 'W8A16'"
    for ask in (scheme_levels.packed, scheme_levels.decode, scheme_levels.loss):
        with pytest.raises(LevelsError, match=message):
            ask(name, "W8A16")
    with pytest.raises(ModelMismatchError, match="is for tiny"):
        scheme_levels.check_model("other")


def test_a_damaged_file_is_told(scheme_levels, tmp_path):
    for path in scheme_levels.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / "model.layers.0.mlp.up_proj.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x55")
    opened = SchemeLevels.open(tmp_path)
    with pytest.raises(LevelsError, match=r"up_proj\.safetensors was edited or damaged: its checksum"):
        opened.verify()
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(LevelsError, match=r"up_proj\.safetensors is truncated or replaced"):
        SchemeLevels.open(tmp_path)


def test_a_record_whose_losses_are_of_other_schemes_is_refused(scheme_levels, tmp_path):
    linears = dict(scheme_levels.record.linears)
    name, entry = next(iter(linears.items()))
    linears[name] = entry.model_copy(update={"losses": {"W4A16": 1.0}})
    write_record(tmp_path, scheme_levels.record.model_copy(update={"linears": linears}))
    with pytest.raises(LevelsError, match=rf"losses of '{re.escape(name)}' must be one for each scheme .*, got 1"):
        read_record(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_experts_are_linears_of_the_database_and_fused_again_in_the_model(family, tmp_path):
    model = tiny_mixture(family)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    settings = LevelSettings(schemes=("W4A16:channel", "NVFP4A16"), batch_windows=4)
    built = build_levels(find_decoder(model), WINDOWS, tmp_path / "db", name="moe", settings=settings)
    experts = [name for name in built.shapes if ".experts." in name]
    assert len(experts) == 4 * 4 * 3
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    for expert in experts[:6]:  # gate and up of one expert share a scale of scales, those of two experts do not
        kept = built.packed(expert, "NVFP4A16")["weight_global_scale"]
        gate = built.packed(f"{expert.rpartition('.')[0]}.gate_proj", "NVFP4A16")["weight_global_scale"]
        assert torch.equal(kept, gate) is not expert.endswith("down_proj")
    assert (
        built.packed(experts[0], "NVFP4A16")["weight_global_scale"]
        != built.packed(experts[3], "NVFP4A16")["weight_global_scale"]
    )


def test_a_linear_that_no_group_divides_stays_dense_and_is_told(decoder, tmp_path):
    told = []
    built = build_levels(
        decoder,
        WINDOWS,
        tmp_path / "db",
        name="tiny",
        settings=LevelSettings(schemes=("W4A16",)),
        progress=lambda event: told.append(event.message),
    )
    left_out = [f"model.layers.{index}.mlp.down_proj" for index in range(2)]
    assert set(decoder.all_linears()) - set(built.shapes) == set(left_out)
    assert [text for text in told if "stays dense" in text] == [
        f"{name} has 48 inputs, which no group divides, so it stays dense and has no levels" for name in left_out
    ]


@pytest.mark.parametrize(
    ("schemes", "message"),
    [
        (("W4A16:g64",), r"q_proj: scheme W4A16:g64 has groups of 64, which do not divide 32 inputs; use g32"),
        (("W4A16:g32",), r"down_proj: scheme W4A16:g32 has groups of 32, which do not divide 48 inputs; use channel"),
    ],
)
def test_a_group_that_does_not_divide_is_refused_before_anything_is_made(schemes, message, decoder, tmp_path):
    with pytest.raises(LevelsError, match=message):
        build_levels(decoder, WINDOWS, tmp_path / "db", name="tiny", settings=LevelSettings(schemes=schemes))
    assert not (tmp_path / "db").exists()


def test_a_disk_that_is_too_small_is_told_before_anything_is_computed(decoder, tmp_path, monkeypatch, scheme_settings):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(stream, "BlockRunner", None)
    shapes = {name: tuple(linear.weight.shape) for name, linear in decoder.all_linears().items()}
    need = f"{predict_packed_bytes(shapes, SCHEMES, 'bfloat16'):,}"
    with pytest.raises(LevelsError, match=rf"needs {need} bytes, the disk has 1,000 free; .* or fewer schemes"):
        build_levels(decoder, WINDOWS, tmp_path / "db", name="tiny", settings=scheme_settings)
    assert not (tmp_path / "db" / RECORD).exists()
