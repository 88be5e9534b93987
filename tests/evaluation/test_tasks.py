"""Documents of two runs paired, and what is asked of lm-eval, which is a stand-in here where it is not installed."""

import math
import sys
from types import ModuleType

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.errors import EvaluationError
from unicuco_plugin.evaluation.tasks import compare_tasks, find_tasks, mean_of_tasks, run_tasks

MODEL = torch.nn.Identity()
DENSE = {
    "quiz": {"acc": {0: 1.0, 1: 1.0, 2: 0.0, 3: 1.0}},
    "riddle": {"acc": {0: 0.0, 1: 1.0}, "acc_norm": {0: 1.0, 1: 1.0}},
}
PRUNED = {
    "quiz": {"acc": {0: 1.0, 1: 0.0, 2: 0.0, 3: 0.0}},
    "riddle": {"acc": {0: 1.0, 1: 1.0}, "acc_norm": {0: 0.0, 1: 1.0}},
}


@pytest.fixture
def harness(monkeypatch):
    """A stand-in for lm-eval that answers with fixed samples and notes what it was asked."""
    asked = {}

    def simple_evaluate(**fields):
        asked.update(fields)
        sample = {"doc_id": 7, "metrics": ["acc", "bits"], "acc": True, "bits": (1.0, 3)}
        return {"samples": {task: [sample, sample | {"doc_id": 8, "acc": 0.0}] for task in fields["tasks"]}}

    root, models, hf, tasks = (
        ModuleType(name) for name in ("lm_eval", "lm_eval.models", "lm_eval.models.huggingface", "lm_eval.tasks")
    )
    root.simple_evaluate = simple_evaluate
    hf.HFLM = lambda **fields: fields
    names = ["quiz", "riddle"]
    tasks.TaskManager = lambda include_path: type("Manager", (), {"all_tasks": names, "path": include_path})
    for module in (root, models, hf, tasks):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return asked


def test_standard_errors_of_differences_are_those_of_pairs():
    quiz, *_ = compare_tasks(DENSE, PRUNED)
    assert (quiz.task, quiz.metric, quiz.documents) == ("quiz", "acc", 4)
    assert (quiz.dense.mean, quiz.pruned.mean, quiz.difference.mean) == (0.75, 0.25, -0.5)
    # Differences 0, -1, 0, -1: sample deviation sqrt(1/3).
    assert quiz.difference.standard_error == pytest.approx(math.sqrt(1 / 3) / 2)
    assert quiz.difference.standard_error < math.hypot(quiz.dense.standard_error, quiz.pruned.standard_error)


def test_the_mean_is_over_the_tasks_that_have_the_metric():
    rows = compare_tasks(DENSE, PRUNED)
    [mean] = mean_of_tasks(rows)
    assert (mean.task, mean.metric, mean.documents) == ("mean of 2", "acc", 6)
    assert mean.difference.mean == pytest.approx((-0.5 + 0.5) / 2)
    errors = [row.difference.standard_error for row in rows if row.metric == "acc"]
    assert mean.difference.standard_error == pytest.approx(math.hypot(*errors) / 2)


def test_one_model_alone_has_no_difference():
    assert [(row.pruned, row.difference) for row in compare_tasks(DENSE)] == [(None, None)] * 3


def test_runs_without_common_documents_are_refused():
    with pytest.raises(EvaluationError, match=r"^quiz: the two models have no document in common for acc$"):
        compare_tasks(DENSE, {"quiz": {"acc": {9: 1.0}}})


def test_only_metrics_that_are_numbers_are_read(harness, tmp_path):
    manager = find_tasks(["quiz"], tmp_path)
    found = run_tasks(MODEL, "tokenizer", ["quiz"], manager, limit=2, batch_size=3)
    assert found == {"quiz": {"acc": {7: 1.0, 8: 0.0}}}
    assert harness["model"] == {"pretrained": MODEL, "tokenizer": "tokenizer", "batch_size": 3}
    assert (harness["limit"], harness["log_samples"], harness["task_manager"].path) == (2, True, str(tmp_path))


@pytest.mark.usefixtures("harness")
def test_an_unknown_task_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match=r"^tasks must be names that lm-eval knows, got crossword;"):
        find_tasks(["quiz", "crossword"])
    with pytest.raises(EvaluationError, match=r"^include_path must be a folder of lm-eval tasks, got "):
        find_tasks(["quiz"], tmp_path / "nowhere")


def test_what_lm_eval_raises_is_one_of_our_errors(harness, monkeypatch):
    def fail(**_):
        raise FileNotFoundError("no quiz.jsonl")

    monkeypatch.setattr(sys.modules["lm_eval"], "simple_evaluate", fail)
    with pytest.raises(EvaluationError, match=r"^lm-eval failed on quiz: FileNotFoundError: no quiz.jsonl$"):
        run_tasks(MODEL, "tokenizer", ["quiz"], find_tasks(["quiz"]))


def test_logits_that_are_not_finite_are_refused_and_the_model_left_as_it_was(harness, monkeypatch):
    model = tiny_model("llama", blocks=2)
    model.lm_head.weight.data[3] = float("nan")
    ids = torch.arange(4)[None]
    monkeypatch.setattr(sys.modules["lm_eval"], "simple_evaluate", lambda **_: model(input_ids=ids))
    with pytest.raises(EvaluationError, match=r"^logits of LlamaForCausalLM is not finite in float32; no"):
        run_tasks(model, "tokenizer", ["quiz"], find_tasks(["quiz"]))
    assert not model._forward_hooks


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)  # where it is installed and was imported before
    with pytest.raises(EvaluationError, match=r"^--tasks needs lm-eval, .*: pip install 'unicuco-plugin\[eval\]'$"):
        find_tasks(["quiz"])
