"""Which strategies can be applied together, and in which order."""

import pytest

from unicuco_plugin.errors import RecipeError
from unicuco_plugin.modifiers.carriers import together
from unicuco_plugin.modifiers.carriers.together import check_spaces
from unicuco_plugin.traits import SPACES, Effect, SpaceTraits


@pytest.fixture
def strangers(monkeypatch):
    """Spaces of plugins: one zeroes weights, one drops blocks, and of one nobody says anything."""
    own = {"dust": SpaceTraits("dust", Effect.ZERO), "span": SpaceTraits("span", Effect.DROP)}
    monkeypatch.setattr(together, "traits_of", lambda space: own.get(space) or SPACES.get(space) or SpaceTraits(space))


@pytest.mark.parametrize("spaces", [[], ["span"], ["dust", "span"], ["sparsity", "structured"], ["span", "sparsity"]])
def test_one_that_removes_and_one_that_zeroes_go_together(strangers, spaces):
    check_spaces(spaces)


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        (
            ["secret"],
            f"space 'secret' cannot be applied by this version, only {', '.join(SPACES)}",
        ),
        (["span", "span"], "one strategy per space: span is given 2 times"),
        (["structured", "span"], "span and structured both remove blocks of the dense model: give one of them"),
        (["sparsity", "dust"], "sparsity and dust both zero weights of the same linears: give one of them"),
    ],
)
def test_strategies_that_exclude_each_other_are_refused(strangers, spaces, message):
    with pytest.raises(RecipeError) as refused:
        check_spaces(spaces)
    assert str(refused.value) == message
