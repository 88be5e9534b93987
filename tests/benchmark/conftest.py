"""A tiny checkpoint, text, and a benchmark of it that takes seconds."""

import random

import pytest
from benchmark_data import TRAIN
from tiny import VOCABULARY, tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "dense"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def data(dense, tmp_path_factory):
    """The content of a YAML: two kinds of methods, a random one, an ablation, two texts."""
    words, chance = [f"w{number}" for number in range(VOCABULARY - 4)], random.Random(0)  # noqa: S311
    folder = tmp_path_factory.mktemp("text")
    for name in ("a", "b", "c"):
        (folder / f"{name}.txt").write_text(" ".join(chance.choices(words, k=3000)), encoding="utf8")
    text = {"windows": 2, "seq_length": 16}
    return {
        "model": str(dense),
        "calibration": {"sources": [str(folder / "a.txt")], "windows": 4, "seq_length": 16},
        "evaluation": {name: {"sources": [str(folder / f"{name}.txt")], **text} for name in ("b", "c")},
        "budgets": [0.3, 0.5],
        "seeds": [0, 1],
        "train": TRAIN,
        "methods": {"ours": {"train": {}}, "shortgpt": {"peer": "shortgpt"}, "greedy": {"peer": "greedy"}},
        "ablations": {"bound": {"lower": {}, "none": {"bound": "none"}}},
    }
