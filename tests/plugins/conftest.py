"""The examples that are plugins, as modules."""

import importlib.util
import sys
from pathlib import Path

import pytest

from unicuco_plugin.plugins.manager import plugin_manager

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def load_example(monkeypatch):
    """Import a file of the examples; no plugin is installed beside it, and none is registered afterwards."""
    monkeypatch.setenv("UNICUCO_DISABLE_PLUGINS", "1")
    plugin_manager.cache_clear()

    def load(path):
        spec = importlib.util.spec_from_file_location(Path(path).stem, EXAMPLES / path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, Path(path).stem, module)
        spec.loader.exec_module(module)
        return module

    yield load
    plugin_manager.cache_clear()
