"""A tiny checkpoint, text for it, a profile trained on it, and the command line in this process."""

import random

import pytest
from accelerator import MACHINES, run_on
from click.testing import CliRunner
from tiny import VOCABULARY, tiny_model, tiny_tokenizer
from tiny_settings import TINY, tiny_settings

from unicuco_plugin.cli.main import main
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier  # noqa: F401 - the toolkit sets up loggers
from unicuco_plugin.training import train_profile

machine = pytest.fixture(scope="module", params=MACHINES)(run_on)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """No installed plugins, and what the command line sets for its process ends with the test."""
    monkeypatch.setenv("UNICUCO_DISABLE_PLUGINS", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture
def unicuco():
    """Run the command line; the result has exit_code, stdout and stderr."""

    def run(*arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return run


@pytest.fixture(scope="session")
def tiny_options():
    """The settings of a training run of a second, as options."""
    return [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="session")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "dense"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words, chance = [f"w{number}" for number in range(VOCABULARY - 4)], random.Random(0)  # noqa: S311
    path.write_text("\n\n".join(" ".join(chance.choices(words, k=50)) for _ in range(40)), encoding="utf8")
    return path


@pytest.fixture(scope="session")
def profile(dense, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiles") / "tiny-depth"
    train_profile(dense, folder, calibration=[str(text)], settings=tiny_settings())
    return folder
