"""An objective built from its specification: the same bits wherever the model lies, and nothing else's."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.errors import CalibrationError, LevelsError, ModelMismatchError, StrategyError, UnknownNameError
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.objectives.objective import ObjectiveRequest
from unicuco_plugin.objectives.specification import ObjectiveSpec, SpaceSpec
from unicuco_plugin.plugins.manager import make_objective
from unicuco_plugin.plugins.objective import Site, build_objective
from unicuco_plugin.scores.ranked_parts import rank_parts
from unicuco_plugin.scores.ranking import RANKINGS
from unicuco_plugin.texts.calibration import calibration_hash
from unicuco_plugin.training.subject import UnitOptions
from unicuco_plugin.training.subjects.find import find_subject

WINDOWS = torch.randint(3, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(4))
OTHER = torch.randint(3, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(5))
SPACES = ["depth", "sublayer", "sparsity", "structured"]
ELSEWHERE = Path(__file__).resolve().parents[1] / "objective_elsewhere.py"


def build_database(folder, sparsities=(0.3, 0.6)):
    settings = LevelSettings(sparsities=sparsities, block_size=16)
    return build_levels(find_decoder(tiny_model("llama", blocks=3)), OTHER, folder, name="tiny", settings=settings)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A checkpoint, its level database, and windows."""
    folder = tmp_path_factory.mktemp("home")
    tiny_model("llama", blocks=3).save_pretrained(folder / "dense")
    build_database(folder / "levels")
    save_file({"windows": WINDOWS}, folder / "windows.safetensors")
    return folder


def at(home, name):
    """A site, its objective's specification, and the space, as a run over the space has them."""
    decoder = find_decoder(load_model(home / "dense"))
    model = str(fingerprint(decoder.model))
    units = UnitOptions(**{"sparsity": {"levels": home / "levels"}, "structured": {"round_to": 4}}.get(name, {}))
    subject = find_subject(name, decoder, model, units)
    payload = subject.prepare(OTHER) if subject.prepare else None
    site = Site(decoder, model, subject.levels, payload)
    spec = DEPTH.model_copy(
        update={
            "model": model,
            "space": SpaceSpec.of(subject.space, subject.costs.table.unit_params, subject.costs.table.parts),
            "levels": site.levels_spec,
            "payload": payload and payload.digest,
        }
    )
    return site, spec, subject.space


DEPTH = ObjectiveSpec(
    objective="divergence",
    model=f"{0:016x}.{0:016x}",
    dtype="float32",
    device="cpu",
    space=SpaceSpec(name="depth", units=("a", "b"), params=(1, 1)),
    windows=calibration_hash(WINDOWS),
    batch_windows=2,
)


def bits(evaluations):
    return [[value.hex() for value in (found.value, *found.per_window)] for found in evaluations]


@pytest.mark.slow
def test_another_process_gives_the_same_bits_in_every_space(home, tmp_path):
    expected = {}
    for name in ("dense", "levels", "windows.safetensors"):
        (tmp_path / name).symlink_to(home / name)
    for name in SPACES:
        site, spec, space = at(home, name)
        X = space.first(8, torch.Generator().manual_seed(1))
        # As it was before there were specifications: with the space, database and parts that are at hand.
        request = ObjectiveRequest(site.decoder, space, WINDOWS, "forward", 2, site.levels, site.payload)
        expected[name] = bits(make_objective("divergence", request).evaluate(X))
        assert bits(build_objective(spec, site, WINDOWS).evaluate(X)) == expected[name]
        keys = [space.key(x) for x in X]
        (tmp_path / f"{name}.json").write_text(json.dumps({"spec": spec.to_dict(), "keys": keys}), encoding="utf8")
        if site.payload is not None:
            save_file(site.payload.tensors, tmp_path / f"{name}-parts.safetensors")
    command = [sys.executable, str(ELSEWHERE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == expected
    assert all(len({row[0] for row in rows}) > 4 for rows in found.values())  # strategies that differ


def test_a_site_is_opened_where_the_level_database_lies_on_this_machine(home, tmp_path):
    _, spec, _ = at(home, "sparsity")
    (tmp_path / "here").symlink_to(home / "levels")
    moved = spec.model_copy(update={"levels": spec.levels.model_copy(update={"folder": "/nowhere/levels"})})
    site = Site.open(moved, find_decoder(load_model(home / "dense")), levels=tmp_path / "here")
    assert site.levels_spec.identity == spec.levels.identity
    build_objective(moved, site, WINDOWS)
    with pytest.raises(LevelsError, match="/nowhere/levels"):
        Site.open(moved, find_decoder(load_model(home / "dense")))


def test_another_model_dtype_or_device_is_refused(home):
    site, spec, _ = at(home, "depth")
    other = find_decoder(tiny_model("llama", blocks=3, seed=1))
    double = find_decoder(load_model(home / "dense", dtype="float64"))
    for changed, rule in (
        (Site.open(spec, other), f"for the model with fingerprint {spec.model}, got "),
        (replace(site, decoder=double), "measured in float32, got float64"),
    ):
        with pytest.raises(ModelMismatchError, match=f"^the objective is {rule}.*: load the run's own model alike$"):
            build_objective(spec, changed, WINDOWS)
    with pytest.raises(ModelMismatchError, match="measured on cuda, got cpu"):
        build_objective(spec.model_copy(update={"device": "cuda"}), site, WINDOWS)


def test_other_windows_are_refused(home):
    site, spec, _ = at(home, "depth")
    for windows in (OTHER, WINDOWS[:2], WINDOWS[:, :6]):
        rule = f"^windows of the objective must be those with hash {spec.windows}, got {calibration_hash(windows)}$"
        with pytest.raises(CalibrationError, match=rule):
            build_objective(spec, site, windows)


def test_another_level_database_is_refused(home, tmp_path):
    site, spec, _ = at(home, "sparsity")
    other = build_database(tmp_path / "levels", (0.4, 0.6))
    for levels, got in ((other, other.record.identity), (None, "none")):
        rule = f"needs the level database {spec.levels.identity}, got {got}: open the run's own, '.*levels'$"
        with pytest.raises(LevelsError, match=rule):
            build_objective(spec, replace(site, levels=levels), WINDOWS)


def test_another_payload_is_refused(home):
    site, spec, _ = at(home, "structured")
    other = rank_parts(site.decoder, WINDOWS, RANKINGS["flap"]).to_payload()
    plain = rank_parts(site.decoder, OTHER, RANKINGS["flap"], compensate=False).to_payload()
    assert len({spec.payload, other.digest, plain.digest}) == 3
    for payload in (other, plain):
        rule = f"^payload 'parts' must have the digest '{spec.payload}', got {payload.digest}: "
        with pytest.raises(StrategyError, match=rule):
            build_objective(spec, replace(site, payload=payload), WINDOWS)
    with pytest.raises(StrategyError, match=f"needs the payload with the digest {spec.payload}, got none"):
        build_objective(spec, replace(site, payload=None), WINDOWS)


def test_a_name_that_no_plugin_provides_here_is_refused(home):
    site, spec, _ = at(home, "depth")
    with pytest.raises(UnknownNameError, match=r"^objective must be one of divergence; got 'beauty'$"):
        build_objective(spec.model_copy(update={"objective": "beauty"}), site, WINDOWS)
    space = spec.space.model_copy(update={"name": "height"})
    with pytest.raises(UnknownNameError, match=r"^space must be one of .*; got 'height'$"):
        build_objective(spec.model_copy(update={"space": space}), site, WINDOWS)
