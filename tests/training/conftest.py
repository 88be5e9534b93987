"""Text and a checkpoint that the runs of training share."""

import random

import pytest
from tiny import WORDS, tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    chance = random.Random(0)  # noqa: S311
    path.write_text("\n\n".join(" ".join(chance.choices(WORDS, k=50)) for _ in range(60)), encoding="utf8")
    return str(path)


@pytest.fixture(scope="session")
def save_model(tmp_path_factory):
    """Save a tiny model with a tokenizer: its folder."""

    def save(**options):
        folder = tmp_path_factory.mktemp("models") / "dense-model"
        tiny_model("llama", **options).save_pretrained(folder)
        tiny_tokenizer(folder)
        return folder

    return save
