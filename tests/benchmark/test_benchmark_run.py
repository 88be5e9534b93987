"""A benchmark broken off and resumed, against one that was not."""

import shutil
from pathlib import Path

import pytest
from own_code import write_own_code
from scheme_databases import build_schemes

from unicuco_plugin.benchmark import cells, site
from unicuco_plugin.benchmark.plan import BenchmarkPlan
from unicuco_plugin.benchmark.run import run_benchmark
from unicuco_plugin.errors import JournalError, UnsupportedModelError
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.peers.evolution import EvolutionSettings
from unicuco_plugin.report.benchmark import describe_benchmark

pytestmark = pytest.mark.slow

TIMED = ("seconds", "answer_seconds")


def untimed(result):
    return [{name: value for name, value in row.items() if name not in TIMED} for row in result["rows"]]


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    return run_benchmark(BenchmarkPlan.model_validate(data), tmp_path_factory.mktemp("runs") / "whole")


def test_every_cell_is_answered_on_its_budget_and_measured_on_every_text(unbroken):
    assert len(unbroken["rows"]) == 4 + 2 + 2 + 8
    for row in unbroken["rows"]:
        assert row["sparsity"] >= row["budget"] - 1e-9
        assert set(row["divergence"]) == {"b", "c"}
        assert all(found["mean"] > 0 and found["standard_error"] >= 0 for found in row["divergence"].values())


def test_an_ablation_that_changes_nothing_is_the_method_and_is_not_trained_again(unbroken):
    rows = [row | {"group": "", "method": ""} for row in unbroken["rows"]]
    ours, lower = ([rows[i] for i, row in enumerate(unbroken["rows"]) if row["method"] == n] for n in ("ours", "lower"))
    assert ours == lower


def test_a_run_killed_anywhere_resumes_and_ends_as_the_unbroken_one(data, unbroken, tmp_path, monkeypatch):
    plan = BenchmarkPlan.model_validate(data)
    real = cells.CellRunner.row
    calls = []

    def killed(self, cell):
        calls.append(cell)
        if len(calls) in (3, 9, 17):
            raise KeyboardInterrupt
        return real(self, cell)

    monkeypatch.setattr(cells.CellRunner, "row", killed)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(plan, tmp_path / "out")
    assert untimed(run_benchmark(plan, tmp_path / "out")) == untimed(unbroken)


def test_answers_are_measured_with_their_methods_compensation(data, tmp_path):
    methods = {
        "plain": {"peer": "shortgpt"},
        "linear": {"peer": "shortgpt", "compensation": "linear"},
        "ours": {"train": {}, "compensation": "ridge"},
    }
    plan = data | {"seeds": [0], "budgets": [0.5], "ablations": {}, "methods": methods}
    plan |= {"calibration": data["calibration"] | {"windows": 16}}
    result = run_benchmark(BenchmarkPlan.model_validate(plan), tmp_path / "out")
    rows = {row["method"]: row for row in result["rows"]}
    assert {name: row.get("compensation") for name, row in rows.items()} == {
        "plain": None, "linear": "linear", "ours": "ridge",
    }  # fmt: skip
    assert rows["plain"]["units"] == rows["linear"]["units"]
    assert rows["plain"]["divergence"] != rows["linear"]["divergence"]
    assert [rows[name].get("compensation_tokens") for name in methods] == [None, 256, 256]
    assert run_benchmark(BenchmarkPlan.model_validate(plan), tmp_path / "out") == result


def test_a_second_run_measures_nothing(data, tmp_path, monkeypatch):
    plan = BenchmarkPlan.model_validate(data | {"seeds": [0], "ablations": {}})
    first = run_benchmark(plan, tmp_path / "out")

    def fail(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(UnitsEvaluator, "evaluate", fail)
    assert run_benchmark(plan, tmp_path / "out") == first


def test_a_journal_that_came_without_its_profiles_answers_and_trains_again_only_for_a_new_budget(
    data, tmp_path, monkeypatch
):
    small = data | {"seeds": [0], "ablations": {}, "methods": {"ours": {"train": {}}}}
    first = run_benchmark(BenchmarkPlan.model_validate(small), tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "profiles")
    real, trained = cells.train_profile, []

    def train(*arguments, **fields):
        trained.append(fields)
        return real(*arguments, **fields)

    monkeypatch.setattr(cells, "train_profile", train)
    assert run_benchmark(BenchmarkPlan.model_validate(small), tmp_path / "out")["rows"] == first["rows"]
    assert trained == []
    more = BenchmarkPlan.model_validate(small | {"budgets": [0.3, 0.5, 0.7]})
    rows = run_benchmark(more, tmp_path / "out")["rows"]
    assert len(trained) == 1
    assert rows[:2] == first["rows"]
    assert rows[2]["tokens"] == rows[0]["tokens"]


def test_texts_that_changed_under_their_names_are_found_out(data, tmp_path):
    # "a" is what peers calibrate on, "b" what is measured on; another number of windows of either is another text.
    methods = {"methods": {"shortgpt": {"peer": "shortgpt"}}, "ablations": {}, "budgets": [0.3]}
    copies = {name: tmp_path / f"{name}.txt" for name in ("a", "b")}
    sources = {"a": data["calibration"]["sources"][0], "b": data["evaluation"]["b"]["sources"][0]}
    calibration = data["calibration"] | {"sources": [str(copies["a"])]}
    evaluation = {"b": data["evaluation"]["b"] | {"sources": [str(copies["b"])]}}
    plan = data | methods | {"calibration": calibration, "evaluation": evaluation}
    for changed, field in ((None, ""), ("a", "calibration"), ("b", r"evaluation\.b")):
        for name, path in copies.items():
            words = Path(sources[name]).read_text(encoding="utf8").split()
            path.write_text(" ".join(reversed(words) if name == changed else words), encoding="utf8")
        if changed is None:
            run_benchmark(BenchmarkPlan.model_validate(plan), tmp_path / "out")
            continue
        with pytest.raises(JournalError, match=f"^{field} must be as it was when .*give another --output"):
            run_benchmark(BenchmarkPlan.model_validate(plan), tmp_path / "out")
    copies["a"].write_text(Path(sources["a"]).read_text(encoding="utf8"), encoding="utf8")
    more = plan | {"evaluation": {"b": evaluation["b"] | {"windows": 3}}}
    run_benchmark(BenchmarkPlan.model_validate(more), tmp_path / "out")


def test_a_search_that_its_budget_ends_says_how_far_it_got_and_what_the_whole_would_take(data, tmp_path):
    evopress = {"peer": "evopress", "setting": "super_fast", "windows": 8, "token_budget": 1, "extrapolate": True}
    plan = data | {"methods": {"evopress": evopress}, "ablations": {}, "budgets": [0.5], "seeds": [0]}
    small = EvolutionSettings(6, 4, (2, 1), (16, 48), 4, 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unicuco_plugin.peers.evopress.drop_settings", lambda *_: small)
        plan["methods"]["evopress"]["token_budget"] = 4 * 16 + 2 * small.generation_tokens
        [row] = run_benchmark(BenchmarkPlan.model_validate(plan), tmp_path / "out")["rows"]
    assert row["generations"] == [2, 6]
    assert row["seconds"] < row["whole_seconds"] < 3 * row["seconds"] + 1e-3


def test_variants_share_what_they_measure(data, tmp_path, monkeypatch):
    measured = []
    real = UnitsEvaluator.evaluate
    monkeypatch.setattr(
        UnitsEvaluator, "evaluate", lambda self, s, *more: measured.append(len(s)) or real(self, s, *more)
    )
    methods = {"ours": {"train": {}}, "again": {"train": {"kappa": 0.5000001}}}
    base = data | {"seeds": [0], "ablations": {}, "budgets": [0.3]}
    run_benchmark(BenchmarkPlan.model_validate(base | {"methods": {"ours": {"train": {}}}}), tmp_path / "one")
    alone = sum(measured)
    measured.clear()
    result = run_benchmark(BenchmarkPlan.model_validate(base | {"methods": methods}), tmp_path / "two")
    assert sum(measured) <= alone + 4  # the same first strategies, and hardly another pick
    assert len({row["tokens"] for row in result["rows"]}) == 1  # both are charged for all of it


def test_peers_of_structured_pruning_are_compared_with_the_same_parts(data, tmp_path):
    methods = {name: {"peer": name} for name in ("structured_uniform", "flap", "interaction")}
    plan = data | {"space": "structured", "seeds": [0], "ablations": {}, "methods": methods, "budgets": [0.3]}
    del plan["train"]
    rows = run_benchmark(BenchmarkPlan.model_validate(plan), tmp_path / "out")["rows"]
    assert [row["method"] for row in rows] == list(methods)
    assert all(row["sparsity"] >= 0.3 - 1e-9 for row in rows)
    assert all(row["divergence"]["b"]["mean"] > 0 for row in rows)


def test_answers_are_the_same_where_blocks_wait_in_files(data, unbroken, tmp_path):
    some = {"seeds": data["seeds"][:1], "ablations": {}, "budgets": data["budgets"][:1], "offload": "disk"}
    streamed = untimed(run_benchmark(BenchmarkPlan.model_validate(data | some), tmp_path))
    assert {row["method"] for row in streamed} == set(data["methods"])
    assert all(row in untimed(unbroken) for row in streamed)


def test_code_of_the_models_own_runs_when_it_is_trusted_and_else_is_refused(data, tmp_path):
    fields = {"model": str(write_own_code(tmp_path / "dense")), "seeds": [0], "ablations": {}, "budgets": [0.3]}
    plan = BenchmarkPlan.model_validate(data | fields)
    with pytest.raises(UnsupportedModelError, match="--trust-remote-code"):
        run_benchmark(plan, tmp_path / "out")
    rows = run_benchmark(plan, tmp_path / "out", trust_remote_code=True)["rows"]
    assert [row["method"] for row in rows] == ["ours", "shortgpt", "greedy"]


def test_a_benchmark_holds_one_model(data, tmp_path, monkeypatch):
    loaded = []
    real = site.load_model
    monkeypatch.setattr(site, "load_model", lambda *args, **options: loaded.append(args) or real(*args, **options))
    monkeypatch.setattr("unicuco_plugin.training.source.load_model", lambda *_, **__: pytest.fail("loaded again"))
    plan = BenchmarkPlan.model_validate(data | {"seeds": [0], "ablations": {}, "budgets": [0.3]})
    run_benchmark(plan, tmp_path / "out")
    assert len(loaded) == 1


def test_peers_and_profiles_of_bits_are_compared_on_one_database(dense, data, tmp_path):
    levels = build_schemes(load_model(str(dense)), tmp_path / "levels")
    methods = {name: {"peer": name} for name in ("uniform_bits", "knapsack_wide", "gradient_knapsack")}
    methods["few"] = {"peer": "knapsack", "windows": 1, "bits": [6.0]}
    methods["ours"] = {"train": {}}
    plan = data | {"space": "precision", "levels": str(levels.folder), "seeds": [0], "ablations": {}, "bits": [4.5, 6]}
    del plan["budgets"]
    result = run_benchmark(BenchmarkPlan.model_validate(plan | {"methods": methods}), tmp_path / "out")
    assert result["budgets"] == [1 - 4.5 / 16, 1 - 6 / 16]
    rows = result["rows"]
    assert [row["method"] for row in rows] == [name for name in methods for _ in range(1 if name == "few" else 2)]
    for row in rows:
        assert row["budget"] - 1e-9 <= row["sparsity"] < row["budget"] + 0.03
        assert set(row["units"].values()) <= {"W8A16:channel", "W4A16:channel", "W3A16:channel"}
        assert row["divergence"]["b"]["mean"] > 0
    text = describe_benchmark(result)
    assert "| method | seeds | 6 bits | 4.5 bits |" in text
