"""Text and a checkpoint that the runs of training share."""

import random

import pytest
from tiny import WORDS, tiny_model, tiny_tokenizer

from unicuco_plugin.answering import load_profile
from unicuco_plugin.training import UnitOptions, train_profile


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    chance = random.Random(0)  # noqa: S311
    path.write_text("\n\n".join(" ".join(chance.choices(WORDS, k=50)) for _ in range(60)), encoding="utf8")
    return str(path)


@pytest.fixture(scope="session")
def save_model(tmp_path_factory):
    """Save a tiny model with a tokenizer: its folder."""

    def save(family="llama", **options):
        folder = tmp_path_factory.mktemp("models") / "dense-model"
        tiny_model(family, **options).save_pretrained(folder)
        tiny_tokenizer(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def run_training(text, tmp_path_factory):
    """Train a profile of one space: its folder, and what training returned."""

    def run(dense, space, settings, name="profile", **units):
        output = tmp_path_factory.mktemp("profiles") / name
        fields = {"space": space, "calibration": [text], "settings": settings, "units": UnitOptions(**units)}
        return output, train_profile(dense, output, **fields)

    return run


@pytest.fixture(scope="module")
def trained(train):
    """What a module's own ``train`` gives without a word, once."""
    return train()


@pytest.fixture(scope="module")
def profile(trained):
    return load_profile(trained[0])
