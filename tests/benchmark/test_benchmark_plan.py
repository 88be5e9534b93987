"""What a benchmark's YAML may say."""

from pathlib import Path

import pytest
import yaml
from benchmark_data import TRAIN

from unicuco_plugin.benchmark.method import Method
from unicuco_plugin.benchmark.plan import BenchmarkPlan, read_plan
from unicuco_plugin.errors import RecipeError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_random_methods_run_once_a_seed_and_equal_variants_are_one_method(data):
    cells = list(BenchmarkPlan.model_validate(data).cells())
    count = {name: sum(cell.name == name for cell in cells) for name in ("ours", "shortgpt", "lower", "none")}
    assert count == {"ours": 4, "shortgpt": 2, "lower": 4, "none": 4}
    keys = {name: {cell.key for cell in cells if cell.name == name} for name in count}
    assert keys["lower"] == keys["ours"]
    assert not keys["none"] & keys["ours"]


def test_a_method_may_have_fewer_seeds_and_its_answers_are_the_same(data):
    cells = {cell.key for cell in BenchmarkPlan.model_validate(data).cells() if cell.name == "ours"}
    ours = data["methods"]["ours"] | {"seeds": [1]}
    fewer = BenchmarkPlan.model_validate(data | {"methods": data["methods"] | {"ours": ours}})
    found = [cell for cell in fewer.cells() if cell.name == "ours"]
    assert {cell.seed for cell in found} == {1}
    assert {cell.key for cell in found} < cells


@pytest.mark.parametrize(
    "change", [{"train": {**TRAIN, "kappa": 1.0}}, {"calibration": {"windows": 5}}, {"budgets": [0.4]}]
)
def test_what_determines_an_answer_is_in_its_name_in_the_journal(data, change):
    merged = data | {name: data[name] | value if isinstance(value, dict) else value for name, value in change.items()}
    first, other = (next(BenchmarkPlan.model_validate(content).cells()) for content in (data, merged))
    assert first.key != other.key
    renamed = BenchmarkPlan.model_validate(data | {"evaluation": {"b": data["evaluation"]["b"]}})
    assert next(renamed.cells()).key == first.key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": [0.3, 1.5]}, "budgets must be in (0, 1), got 1.5"),
        ({"budgets": [0.3, 0.3]}, "budgets must be different from each other, got [0.3, 0.3]"),
        ({"seeds": [1, 1]}, "seeds must be different from each other, got [1, 1]"),
        ({"methods": {"x": {"peer": "greedy", "budgets": [1.5]}}}, "methods.x: budgets must be in (0, 1), got 1.5"),
        ({"methods": {"x": {"profile": "/nowhere"}}}, "methods.x: no profile at /nowhere"),
        ({"requests": [0]}, "requests must be 1 or more each, got 0"),
        ({"requests": []}, "requests"),
        ({"ablations": {"a/b": {"x": {}}}}, "ablations must be named by letters, digits, '.', '_' and '-', got 'a/b'"),
        ({"models": "m"}, "unknown field 'models'"),
        ({"methods": {"x": {}}}, "methods.x: give exactly one of train, profile, peer; got none"),
        ({"methods": {"x": {"peer": "nobody"}}}, "methods.x: peer must be one of "),
        ({"methods": {"x": {"train": {}, "compensation": "hope"}}}, "methods.x: compensation must be one of bias, "),
        (
            {"space": "sparsity", "levels": "l", "methods": {"x": {"train": {}, "compensation": "ridge"}}},
            "methods.x: compensation ridge corrects what leaves, in the spaces 'depth', 'sublayer' and 'structured'",
        ),
        ({"methods": {"x": {"peer": "owl"}}}, "methods.x: owl answers for sparsity, not for depth"),
        (
            {"methods": {"x": {"peer": "greedy", "token_budget": 9}}},
            "methods.x: token_budget goes with peers that take it, got",
        ),
        (
            {"methods": {"x": {"train": {"epochs": -1}}}},
            "methods.x: epochs: Input should be greater than or equal",
        ),
        (
            {"ablations": {"kappa": {"2": {"kappa": "wide"}}}},
            "ablations.kappa.2: kappa: Input should be a valid number",
        ),
        ({"ablations": {"methods": {}}}, "ablations must not be called 'methods'"),
        ({"bits": [4]}, "give bits or budgets, got both"),
        ({"methods": {"x": {"peer": "greedy", "bits": 4}}}, "bits must be a list of numbers, got 4"),
        ({"methods": {"x": {"peer": "greedy", "bits": [17]}}}, "methods.x: budgets must be in (0, 1), got -0.0625"),
        (
            {"space": "x"},
            "space: Input should be one of depth, sublayer, structured, sparsity, precision, compound, got 'x'",
        ),
        (
            {"space": "sparsity"},
            "levels goes with the spaces 'sparsity', 'precision' and 'compound', got None for 'sparsity'",
        ),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_with_its_rule_and_value(data, tmp_path, change, message):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(data | change))
    with pytest.raises(RecipeError) as caught:
        read_plan(path)
    assert message in str(caught.value)


def test_windows_are_a_methods_own_and_go_with_peers_that_read_them(data):
    fewer = data | {"methods": {"few": {"peer": "greedy", "windows": 1}, "all": {"peer": "greedy"}}, "ablations": {}}
    few, every = (cell.identity for cell in BenchmarkPlan.model_validate(fewer).cells() if cell.budget == 0.5)
    assert few != every
    for method, message in (
        ({"peer": "uniform", "windows": 1}, "windows goes with peers that read text, got windows: 1"),
        ({"train": {}, "windows": 1}, "windows goes with peers that read text, got windows: 1"),
    ):
        with pytest.raises(ValueError, match=message):
            BenchmarkPlan.model_validate(data | {"methods": {"few": method}})


def test_extrapolating_goes_with_a_token_budget():
    with pytest.raises(ValueError, match="extrapolate needs a token_budget that cuts the search short, got none"):
        Method(peer="evopress", extrapolate=True).check("depth")


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_can_be_read(path):
    plan = read_plan(path)
    assert {cell.group for cell in plan.cells()} == {"methods", *plan.ablations}


def test_a_file_that_is_no_yaml_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a worker's folder is so deep that a message with its path is cut short
    with pytest.raises(RecipeError, match=r"^benchmark nowhere.yaml cannot be read: "):
        read_plan(Path("nowhere.yaml"))
