"""Every hook is documented and tested: adding one without either fails here."""

import inspect
import typing
from pathlib import Path

import pytest

from unicuco_plugin.plugins import builtin, hookspecs

HOOKS = sorted(name for name in hookspecs.__all__ if name.startswith("unicuco_"))
TESTS = Path(__file__).resolve().parent / "test_manager.py"
every_hook = pytest.mark.parametrize("hook", HOOKS)


def test_every_specification_is_exported():
    marked = [name for name, value in vars(hookspecs).items() if hasattr(value, "unicuco_spec")]
    assert sorted(marked) == HOOKS


@every_hook
def test_a_hook_says_what_it_is_for_and_when_it_is_called(hook):
    documentation = inspect.getdoc(getattr(hookspecs, hook)) or ""
    summary, _, rest = documentation.partition("\n\n")
    assert summary.endswith((".", "``."))
    assert "alled" in rest


@every_hook
def test_a_hook_is_typed(hook):
    function = getattr(hookspecs, hook)
    hints = typing.get_type_hints(function)
    assert hints.keys() == {*inspect.signature(function).parameters, "return"}


@every_hook
def test_a_hook_is_mentioned_in_a_test_of_the_manager(hook):
    assert hook in TESTS.read_text(encoding="utf8")


@every_hook
def test_the_built_ins_implement_every_hook_with_its_arguments(hook):
    specified, implemented = (inspect.signature(getattr(module, hook)) for module in (hookspecs, builtin))
    assert list(implemented.parameters) == list(specified.parameters)
