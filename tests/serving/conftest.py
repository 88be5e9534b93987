"""Configurations of small models, on disk."""

import json

import pytest
from tiny import tiny_model


@pytest.fixture
def config_file(tmp_path):
    """Write the config.json of a tiny family with a ``quantization_config``; return its path."""

    def write(quantization=None, family="llama", blocks=2, **fields):
        data = tiny_model(family, blocks=blocks).config.to_dict() | {"hidden_size": 64, "head_dim": 16} | fields
        if quantization is not None:
            data["quantization_config"] = quantization
        path = tmp_path / "config.json"
        path.write_text(json.dumps(data, default=str), encoding="utf8")
        return path

    return write
