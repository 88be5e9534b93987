import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import Divergence, ModelReference, Strategy


def make(**changes):
    fields = {
        "space": "depth",
        "model": ModelReference(name="m", fingerprint="f00d"),
        "request": Request.of(sparsity=0.25),
        "sparsity": 0.2667,
        "params": 100,
        "bytes": 200,
        "source": "stratnet",
        "divergence": Divergence(mean=0.5, interval90=(0.4, 0.6), measured=True),
        "units": {"model.layers.3": 1.0},
    }
    return Strategy(**fields | changes)


def edited(**changes):
    return make().to_dict() | changes


def test_the_json_is_the_contracts_object():
    assert json.loads(make().to_json()) == {
        "schema": 1,
        "space": "depth",
        "model": {"name": "m", "fingerprint": "f00d"},
        "request": {"sparsity": 0.25},
        "sparsity": 0.2667,
        "params": 100,
        "bytes": 200,
        "source": "stratnet",
        "divergence": {"mean": 0.5, "interval90": [0.4, 0.6], "measured": True},
        "units": {"model.layers.3": 1.0},
    }


def test_a_strategy_of_a_level_database_names_it():
    assert make(levels="f00d").to_dict()["levels"] == "f00d"
    assert Strategy.from_dict(make(levels="f00d").to_dict()).levels == "f00d"


def test_the_json_is_one_line_also_for_names_with_line_breaks():
    assert "\n" not in make(model=ModelReference(name="a\nb", fingerprint="é")).to_json()


def test_a_divergence_carried_over_from_other_weights_says_so():
    carried = Divergence(mean=0.5, interval90=(0.4, 0.6), measured=False, carried_over=True)
    assert make(divergence=carried).to_dict()["divergence"]["carried_over"] is True


@given(
    units=st.dictionaries(st.text(min_size=1, max_size=5), st.floats(0, 1, exclude_min=True), max_size=4),
    mean=st.floats(0, 1e6),
    carried_over=st.booleans(),
    preference=st.tuples(st.floats(0, 1), st.floats(0.1, 1)),
)
def test_a_strategy_survives_json(units, mean, carried_over, preference):
    divergence = Divergence(mean=mean, interval90=(mean / 2, mean * 2), measured=False, carried_over=carried_over)
    strategy = make(units=units, divergence=divergence, request=Request.of(preference=preference))
    assert Strategy.from_dict(json.loads(strategy.to_json())) == strategy


def test_a_strategy_file_is_read_back(tmp_path):
    (tmp_path / "strategy.json").write_text(make().to_json(), encoding="utf8")
    assert Strategy.read(tmp_path / "strategy.json") == make()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (edited(schema=2), "schema must be 1, got 2; a newer unicuco-plugin wrote this strategy"),
        (edited(schema=0), "schema must be 1, got 0"),
        (edited(units={"a": 1.5}), "units['a'] must be in (0, 1], got 1.5"),
        (edited(units={"a": 0.0}), "units['a'] must be in (0, 1], got 0.0"),
        (edited(units={"": 0.5}), "units must have names of 1 to 1000 characters, got ''"),
        (edited(units={"a" * 1001: 0.5}), "units must have names of 1 to 1000 characters, got '" + 58 * "a" + "…"),
        (edited(units={"a" * 1000: 2.0}), "units['" + 58 * "a" + "…] must be in (0, 1], got 2.0"),
        (
            edited(model={"name": "m" * 1001, "fingerprint": ""}),
            "model.name: String should have at most 1000 characters, got '" + 58 * "m" + "…",
        ),
        (edited(sparsity=1.5), "sparsity: Input should be less than or equal to 1, got 1.5"),
        (edited(sparsity=float("nan")), "sparsity: Input should be a finite number, got nan"),
        (edited(params=0), "params: Input should be greater than 0, got 0"),
        (
            edited(source="guess"),
            "source: Input should be 'stratnet', 'archive', 'neighbour', 'uniform', 'additive', 'peer' or "
            "'evopress_file', got 'guess'",
        ),
        (edited(extra=1), "unknown field 'extra'"),
        (edited(request={"sparsity": 2}), "sparsity must be in (0, 1), got 2.0"),
        (
            edited(divergence={"mean": float("inf"), "interval90": [0, 1], "measured": True}),
            "divergence.mean: Input should be a finite number, got inf",
        ),
        (
            edited(divergence={"mean": 0.5, "interval90": [0.6, 0.4], "measured": True}),
            "interval90 must be (low, high), got (0.6, 0.4)",
        ),
        ({name: value for name, value in edited().items() if name != "space"}, "space: Field required"),
    ],
)
def test_a_wrong_strategy_names_the_field_the_rule_and_the_value(data, message):
    with pytest.raises(StrategyError) as caught:
        Strategy.from_dict(data)
    assert str(caught.value) == f"not a strategy: {message}"


@pytest.mark.parametrize("data", [None, [], "depth", 1])
def test_data_that_is_no_object_is_no_strategy(data):
    with pytest.raises(StrategyError, match=r"^not a strategy: Input should be "):
        Strategy.from_dict(data)


@pytest.mark.parametrize("content", [b"", b'{"schema": 1', b"\xff\xfe"])
def test_a_file_that_is_not_json_is_our_error(tmp_path, content):
    (tmp_path / "strategy.json").write_bytes(content)
    with pytest.raises(StrategyError, match=r"strategy\.json cannot be read"):
        Strategy.read(tmp_path / "strategy.json")


def test_a_file_of_brackets_is_our_error(tmp_path):
    (tmp_path / "strategy.json").write_text("[" * 100_000)
    with pytest.raises(StrategyError, match=r"strategy\.json cannot be read: is nested too deeply$"):
        Strategy.read(tmp_path / "strategy.json")


def test_a_pipe_and_a_huge_file_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StrategyError, match=r"pipe cannot be read: must be a regular file, got a pipe$"):
        Strategy.read(tmp_path / "pipe")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 2**40)
    with pytest.raises(
        StrategyError, match=r"huge cannot be read: must have at most 67,108,864 bytes, got 1,099,511,627,776$"
    ):
        Strategy.read(tmp_path / "huge")


def test_too_many_units_are_refused(monkeypatch):
    monkeypatch.setattr("unicuco_plugin.strategy._MOST_UNITS", 1)
    with pytest.raises(StrategyError, match=r"^not a strategy: units must be at most 1, got 2$"):
        Strategy.from_dict(edited(units={"a": 0.5, "b": 0.5}))


def test_a_missing_file_is_our_error(tmp_path):
    with pytest.raises(StrategyError, match=r"strategy\.json cannot be read"):
        Strategy.read(tmp_path / "strategy.json")


def test_strategies_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        make().sparsity = 0.5
