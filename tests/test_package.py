"""What the root exports, and what it costs to import."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from analytic_profile import build, train_analytic

import unicuco_plugin
from unicuco_plugin.profile import write_profile

NAMES = [
    "PRESETS", "CalibrationText", "DivergenceObjective", "Effect", "Evaluation", "Export", "Healed", "HealingSettings",
    "LevelSettings", "LevelWorkers", "Levels", "ModelSource", "Objective", "ObjectiveRequest", "Payload", "Peer",
    "PeerRequest", "PeerResult", "Profile", "Progress", "Ranking", "RayWorkers", "ReportingObjective", "Request",
    "SchemeLevels", "Settings", "Space", "SpaceTraits", "SparsityProfileModifier", "Strategy", "UnicucoError",
    "UnitOptions", "__version__", "apply_strategy", "build_levels", "find_decoder", "find_smollm2", "heal", "hookimpl",
    "load", "load_profile", "load_profiles", "load_tokenizer", "load_windows", "plugin_manager", "prune",
    "train_profile",
]  # fmt: skip
EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").rglob("*.py"))
HEAVY = ("transformers", "botorch", "gpytorch", "llmcompressor", "datasets", "matplotlib")


def run_fresh(program, *arguments):
    """Run a program in a fresh interpreter; returns what it printed."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_root_exports_what_the_readme_promises():
    assert unicuco_plugin.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_exported_name_is_there_under_its_own_name(name):
    value = getattr(unicuco_plugin, name)
    assert getattr(value, "__name__", name) == name
    assert value.__doc__


def test_the_version_is_that_of_the_distribution():
    assert unicuco_plugin.__version__ == importlib.metadata.version("unicuco-plugin")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_use_public_names_only(path):
    tree = ast.parse(path.read_text(encoding="utf8"))
    used = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith("unicuco_plugin")
    ]
    assert {node.module for node in used} <= {"unicuco_plugin"}
    assert {alias.name for node in used for alias in node.names} <= set(NAMES)
    plain = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert [name for name in plain if name.startswith("unicuco_plugin.")] == []


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'unicuco_plugin' has no attribute 'train'$"):
        _ = unicuco_plugin.train


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    ["import unicuco_plugin, llmcompressor", "import llmcompressor, unicuco_plugin"],
    ids=["ours first", "theirs first"],
)
def test_the_modifier_is_registered_whichever_is_imported_first(imports):
    program = f"""
{imports}
from llmcompressor.modifiers import ModifierFactory
ModifierFactory.refresh()
fields = dict(allow_registered=True, allow_experimental=False)
made = ModifierFactory.create("SparsityProfileModifier", profile="p", request={{"sparsity": 0.5}}, **fields)
print(type(made).__module__)
"""
    assert run_fresh(program)[-1] == "unicuco_plugin.modifiers.sparsity_profile"


def test_importing_the_root_imports_nothing_heavy():
    program = "import sys, unicuco_plugin; print(*(m for m in sys.argv[1:] if m in sys.modules))"
    assert run_fresh(program, "torch", *HEAVY) == []


@pytest.mark.slow
def test_answering_imports_no_language_model_no_fitting_library_and_no_toolkit(tmp_path):
    write_profile(tmp_path / "p", *build(train_analytic(epochs=0, steps=5, initial=12, rerank=0)))
    program = """
import sys
from unicuco_plugin import load_profile
profile = load_profile(sys.argv[1])
profile.answer(sparsity=0.25), profile.answer(preference=(1, 1)), profile.answer(max_divergence=50.0)
print(*(m for m in sys.argv[2:] if m in sys.modules))
"""
    assert run_fresh(program, str(tmp_path / "p"), *HEAVY) == []
