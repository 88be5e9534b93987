"""What answers a request is quick to import."""

import subprocess
import sys
from pathlib import Path

import pytest

import unicuco_plugin.policy

MODULES = sorted(path.stem for path in Path(unicuco_plugin.policy.__path__[0]).glob("*.py") if path.stem != "__init__")


@pytest.mark.slow
def test_a_policy_needs_neither_botorch_nor_transformers():
    names = ", ".join(f"unicuco_plugin.policy.{name}" for name in MODULES)
    heavy = "{'botorch', 'gpytorch', 'transformers', 'llmcompressor'}"
    program = f"import sys, {names}; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
