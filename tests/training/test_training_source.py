"""A model and text by their names alone, or with how they are read."""

import dataclasses
from pathlib import Path

import pytest

from unicuco_plugin import CalibrationText, ModelSource


@pytest.mark.parametrize("name", ["owner/model", Path("folder")])
def test_a_name_alone_is_loaded_in_the_usual_way(name):
    source = ModelSource.of(name)
    assert source == ModelSource(name, device="cpu", dtype="auto", revision=None, trust_remote_code=False)
    assert source.hub == {"revision": None, "trust_remote_code": False}


def test_what_is_said_of_a_model_is_kept():
    source = ModelSource("m", device="cuda:1", dtype="bfloat16", revision="main", trust_remote_code=True)
    assert ModelSource.of(source) is source
    assert source.hub == {"revision": "main", "trust_remote_code": True}


def test_sources_alone_are_read_from_the_usual_split():
    assert CalibrationText.of(["a", "b"]) == CalibrationText(["a", "b"], split="train", documents=None)
    text = CalibrationText(("a",), split="test", documents=3)
    assert CalibrationText.of(text) is text
    assert CalibrationText.of(()).sources == ()


@pytest.mark.parametrize("given", [ModelSource("m"), CalibrationText()])
def test_they_do_not_change(given):
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.name = "other"
