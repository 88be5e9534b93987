"""What the check is given, and what it is given by mistake."""

import json

import pytest
from quantisations import integers, quantised

from unicuco_plugin.errors import CheckpointError
from unicuco_plugin.serving.source import read_source

QUANTISED = quantised((["Linear"], integers()))


@pytest.fixture
def written(tmp_path):
    def write(data, name="config.json"):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return path

    return write


def test_a_folder_and_its_configuration_are_one_source(written):
    path = written({"model_type": "llama", "quantization_config": QUANTISED})
    assert read_source(path).quantization == QUANTISED
    assert read_source(path).folder is None
    assert read_source(path.parent) == type(read_source(path))(path.parent, read_source(path).config, QUANTISED)


@pytest.mark.parametrize(
    "data",
    [
        {"model_type": "llama", "compression_config": QUANTISED},
        {"model_type": "gemma3", "text_config": {"quantization_config": QUANTISED}},
    ],
)
def test_older_places_are_looked_in(written, data):
    assert read_source(written(data)).quantization == QUANTISED


def test_a_quantisation_alone_has_no_model(written):
    assert (read_source(written(QUANTISED, "q.json")).config, read_source(written(QUANTISED)).quantization) == (
        None,
        QUANTISED,
    )


def test_limits_without_end_are_read_as_older_configurations_have_them(written):
    found = read_source(written(b'{"model_type": "bamba", "time_step_limit": [0.0, Infinity]}'))
    assert found.config["time_step_limit"] == [0.0, float("inf")]


def test_a_checkpoint_that_is_not_quantised_is_one(written):
    assert read_source(written({"model_type": "llama", "quantization_config": None})).quantization is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"model_type": "lla', "must be JSON"),
        (b"GGUF\x03\x00\x00\x00" + bytes(64), "is a GGUF file"),
        (b"\xff\xfe\x00", "must be JSON"),
        ([1], "must be a JSON object, got list"),
        ({"hello": 1}, "names neither a model_type nor config_groups"),
        ({"model_type": "llama", "quantization_config": [1]}, "quantization_config must be an object, got list"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"", "must be JSON"),
    ],
)
def test_what_is_no_configuration_is_refused_in_one_line(written, data, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read_source(written(data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.gguf", "is a GGUF file"),
        ("adapter_config.json", "holds a LoRA adapter"),
        ("params.json", "Mistral's own format"),
        ("notes.txt", "has no config.json"),
    ],
)
def test_a_folder_of_something_else_is_named(written, tmp_path, name, message):
    written(b"{}", name)
    with pytest.raises(CheckpointError, match=message):
        read_source(tmp_path)


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        read_source(tmp_path / "none")
