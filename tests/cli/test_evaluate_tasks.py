"""``unicuco evaluate --tasks`` through lm-eval itself, on a task of our own, offline."""

import json
import sys

import pytest
from tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture
def quiz(tmp_path):
    rows = [{"query": f"w{i} w{i + 1}", "choices": [f"w{i + 2}", f"w{i + 5} w3"], "gold": i % 2} for i in range(12)]
    (tmp_path / "quiz.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "quiz.yaml").write_text(
        f"""task: quiz
dataset_path: json
dataset_kwargs:
  data_files:
    test: {tmp_path / "quiz.jsonl"}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{query}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""
    )
    return tmp_path


def test_dense_and_pruned_are_compared_document_by_document(unicuco, dense, quiz, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the extra [eval] is not installed")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tiny_model("llama", seed=1).save_pretrained(tmp_path / "other")
    tiny_tokenizer(tmp_path / "other")
    arguments = [
        "evaluate",
        "--model",
        dense,
        "--pruned",
        tmp_path / "other",
        "--tasks",
        "quiz",
        "--include-path",
        quiz,
    ]
    result = unicuco(*arguments, "--limit", "10", "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["tasks"]
    assert [(row["task"], row["metric"], row["documents"]) for row in rows] == [
        ("quiz", "acc", 10),
        ("quiz", "acc_norm", 10),
    ]
    for row in rows:
        assert row["difference"]["mean"] == pytest.approx(row["pruned"]["mean"] - row["dense"]["mean"])
        assert row["difference"]["standard_error"] >= 0
    table = unicuco(*arguments, "--limit", "10")
    assert table.stdout.splitlines()[0].split() == [
        "task",
        "metric",
        "documents",
        "dense",
        "pruned",
        "pruned",
        "-",
        "dense",
    ]


def test_without_lm_eval_it_ends_before_a_model_is_loaded(unicuco, dense, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    monkeypatch.setattr("unicuco_plugin.models.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    result = unicuco("evaluate", "--model", dense, "--tasks", "piqa")
    assert result.exit_code == 1
    assert "pip install 'unicuco-plugin[eval]'" in result.stderr


def test_neither_text_nor_tasks_is_refused(unicuco, dense):
    result = unicuco("evaluate", "--model", dense)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: give TEXT, --tasks or both"
