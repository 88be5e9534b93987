"""The examples run as they stand, on a tiny model and profile."""

import importlib.util
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tiny_settings import tiny_settings

from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.training import UnitOptions, train_profile

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def example():
    """Import one example as a module."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_the_quickstart_prunes_and_speaks(example, profile, dense, monkeypatch, capsys):
    quickstart = example("quickstart")
    monkeypatch.setattr(quickstart, "PROFILE", str(profile))
    monkeypatch.setattr(sys, "argv", ["quickstart.py", str(dense)])
    quickstart.main()
    printed = capsys.readouterr().out
    assert "drop model.layers." in printed
    assert "4 blocks left, 35,104 parameters" in printed


@pytest.fixture
def training(example, monkeypatch):
    """The training example with the settings of a second."""
    module = example("train_profile")
    monkeypatch.setitem(module.PRESETS, "default", tiny_settings())
    return module


def test_training_goes_on_where_it_stopped(training, dense, text, tmp_path, capsys):
    training.main(str(dense), str(tmp_path / "p"), str(text))
    first = capsys.readouterr().out
    training.main(str(dense), str(tmp_path / "p"), str(text))
    assert "sparsity 0.5: 3 blocks, " in first
    assert capsys.readouterr().out.splitlines()[-5:] == first.splitlines()[-5:]


@pytest.fixture
def sparsify(example, monkeypatch):
    """The sparsity example with few windows, three levels and the settings of a second."""
    module = example("sparsify")
    monkeypatch.setitem(module.PRESETS, "default", tiny_settings())
    monkeypatch.setattr(module, "WINDOWS", 4)
    monkeypatch.setattr(module, "LENGTH", 16)
    monkeypatch.setattr(module, "LEVELS", LevelSettings(sparsities=(0.3, 0.6, 0.9), block_size=16))
    return module


def test_sparsifying_meets_its_share_and_uses_what_is_there(sparsify, dense, text, tmp_path, capsys):
    sparsify.main(str(dense), str(text), str(tmp_path / "out"))
    before = (tmp_path / "out" / "profile" / "profile.json").read_bytes()
    sparsify.main(str(dense), str(text), str(tmp_path / "out"), "0.45")
    printed = capsys.readouterr().out
    assert "(0.600000), achieved" in printed
    assert "(0.450000), achieved" in printed
    assert (tmp_path / "out" / "profile" / "profile.json").read_bytes() == before


@pytest.fixture
def slimming(dense, text, tmp_path):
    """A model and its profile of head groups and neurons."""
    settings, units = tiny_settings(), UnitOptions(round_to=8)
    train_profile(dense, tmp_path / "p", space="structured", calibration=[str(text)], settings=settings, units=units)
    return str(dense), str(tmp_path / "p")


def test_slimming_saves_parameters_and_speaks(example, slimming, tmp_path, capsys):
    example("slim").main(str(tmp_path / "out"), *slimming)
    found = re.findall(r"^(dense|slim): ([\d,]+) parameters, [\d.]+ tokens/s: ", capsys.readouterr().out, re.MULTILINE)
    params = {name: int(number.replace(",", "")) for name, number in found}
    decoder = find_decoder(load_model(slimming[0]))
    removable = sum(part.params * part.count for part in find_parts(decoder).values())
    biases = 2 * len(decoder.blocks) * decoder.config.hidden_size
    assert 0.25 * removable - biases <= params["dense"] - params["slim"] < 0.35 * removable


def test_the_gallery_draws_what_packaged_profiles_know(example, tmp_path, capsys):
    example("gallery").main(str(tmp_path / "pictures"))
    pictures = [Path(line) for line in capsys.readouterr().out.splitlines()]
    page = (EXAMPLES.parent / "docs" / "gallery.md").read_text(encoding="utf8")
    assert {path.name for path in pictures} == set(re.findall(r"\(gallery/([\w-]+\.svg)\)", page))
    for path in pictures:
        assert ElementTree.fromstring(path.read_bytes()).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - ours
