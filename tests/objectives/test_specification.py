"""A specification is plain JSON data, and what is wrong in it is named."""

import json

import pytest
import torch
from pydantic import ValidationError

from unicuco_plugin.errors import EvaluationError
from unicuco_plugin.objectives.specification import LevelsSpec, ObjectiveSpec, SpaceSpec
from unicuco_plugin.plugins.manager import make_space
from unicuco_plugin.spaces.depth import DepthSpace

UNITS = ("a.0.attn", "a.0.mlp", "a.1.attn", "a.1.mlp")
SPACE = SpaceSpec(name="sublayer", units=UNITS, params=(3, 5, 3, 5), needed=((0, 1),))
WHOLE = ObjectiveSpec(
    objective="divergence",
    model="0123456789abcdef.fedcba9876543210",
    dtype="bfloat16",
    device="cpu",
    space=SPACE,
    windows="00112233445566aa",
    direction="reverse",
    batch_windows=3,
    levels=LevelsSpec(folder="levels/m", identity="a" * 16),
    payload="b" * 16,
)


@pytest.mark.parametrize(
    "spec", [WHOLE, WHOLE.model_copy(update={"levels": None, "payload": None})], ids=["all of it", "without levels"]
)
def test_what_is_written_as_json_is_read_as_the_same(spec):
    again = ObjectiveSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert hash(again) == hash(spec)


def test_shares_come_back_to_the_last_bit():
    bounds = ((0.1, 1 / 3), (0.1 + 0.2, 0.7), (1e-17, 1.0), (0.0, 0.9999999999999999))
    spec = WHOLE.model_copy(update={"space": SPACE.model_copy(update={"bounds": bounds})})
    assert ObjectiveSpec.from_dict(json.loads(json.dumps(spec.to_dict()))).space.bounds == bounds


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("depth", {"needed": ((1, 3),)}),
        ("depth", {}),
        ("sublayer", {"needed": ((0, 1),)}),
        ("sublayer", {"needed": ((0, 1),), "physical": True}),
        ("sparsity", {"bounds": ((0.1, 0.7),) * 4}),
        ("structured", {"parts": ((2, 1), (8, 2)) * 2}),
    ],
)
def test_a_space_is_described_by_what_it_is_built_from(name, arguments):
    params = (16, 48, 16, 48) if arguments else (3, 3, 3, 3)
    space = make_space(name, UNITS, params, **arguments)
    spec = SpaceSpec.of(space, params, arguments.get("parts", ()))
    again = make_space(**SpaceSpec.model_validate(spec.model_dump(mode="json")).model_dump())
    assert type(again) is type(space)
    assert again == space
    assert again.physical == space.physical
    X = space.first(6, torch.Generator().manual_seed(0))
    assert [again.key(x) for x in X] == [space.key(x) for x in X]
    assert [again.to_units(x) for x in X] == [space.to_units(x) for x in X]


def changed(**fields):
    return WHOLE.to_dict() | fields


def space_with(**fields):
    return changed(space=SPACE.model_dump(mode="json") | fields)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (changed(extra=1), "unknown field 'extra'"),
        ({k: v for k, v in WHOLE.to_dict().items() if k != "windows"}, "windows: Field required"),
        (changed(windows="../etc"), "windows: .*pattern.*, got '../etc'"),
        (changed(model="abc"), "model: .*pattern.*, got 'abc'"),
        (changed(direction="sideways"), "direction: Input should be 'forward' or 'reverse', got 'sideways'"),
        (changed(batch_windows=0), "batch_windows: Input should be greater than or equal to 1, got 0"),
        (changed(levels={"folder": "x"}), r"levels\.identity: Field required"),
        (changed(payload="x"), "payload: .*pattern"),
        (space_with(params=[1, 2]), "params must have one entry for each of 4 units, got 2"),
        (space_with(parts=[[2, 1]]), "parts must have one entry for each of 4 units, got 1"),
        (space_with(bounds=[[0.5, 0.2]] * 4), r"bounds must be \(least, largest\) shares in \[0, 1\]"),
        (space_with(units=["a", "b", "a", "c"]), "units must have names of their own, got 'a' twice"),
        (space_with(needed=[[4]]), r"needed must be groups of indices of 4 units, got \(\(4,\),\)"),
        (["no", "mapping"], "valid dictionary"),
    ],
)
def test_what_is_wrong_is_named(data, rule):
    with pytest.raises(EvaluationError, match=f"^the specification of an objective is damaged: .*{rule}") as caught:
        ObjectiveSpec.from_dict(data)
    assert len(str(caught.value)) <= 400
    assert "\n" not in str(caught.value)


def test_a_specification_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        WHOLE.batch_windows = 4


def test_a_plugins_space_is_described_by_its_members_alone():
    class Other(DepthSpace):
        name = "height"

    spec = SpaceSpec.of(Other(UNITS, (1,) * 4, name="height"), (1,) * 4)
    assert (spec.name, spec.units, spec.params, spec.bounds, spec.needed) == ("height", UNITS, (1,) * 4, (), ())
