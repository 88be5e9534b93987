"""What spaces do to a model, told apart without their names."""

import pytest

from unicuco_plugin.plugins.manager import list_plugins
from unicuco_plugin.traits import SPACES, Effect, SpaceTraits, cutting, storing, traits_of, zeroing


def test_every_built_in_space_has_traits():
    built_in = {e.name for e in list_plugins() if e.kind == "space" and e.package == "unicuco-plugin"}
    assert set(SPACES) == built_in
    assert all(traits.name == name and traits.effect is not None for name, traits in SPACES.items())


@pytest.mark.parametrize(
    ("space", "true"),
    [
        ("depth", {"whole", "removes"}),
        ("sublayer", {"whole", "halves", "removes"}),
        ("structured", {"cuts", "removes"}),
        ("sparsity", {"zeroes", "on_levels"}),
        ("precision", {"stores", "on_levels"}),
        ("compound", {"whole", "removes", "stores", "on_levels"}),
        ("nobody's", set()),
    ],
)
def test_traits_follow_from_the_effect(space, true):
    traits = traits_of(space)
    every = ("whole", "halves", "cuts", "zeroes", "stores", "on_levels", "removes")
    assert {name for name in every if getattr(traits, name)} == true


def test_effects_are_listed_in_the_order_of_the_built_in_spaces():
    single = [traits.effect for traits in SPACES.values() if len(traits.effect) == 1]
    assert single == list(Effect)
    assert SPACES["compound"].effect == Effect.DROP | Effect.STORE


def test_some_spaces_of_several_zero_or_cut():
    assert zeroing(["depth", "sparsity"])
    assert not zeroing(["depth", "structured"])
    assert cutting(["structured", "sparsity"])
    assert not cutting([])
    assert storing(["depth", "precision"])
    assert not storing(["sparsity"])


def test_a_space_that_nobody_knows_has_no_effect():
    assert traits_of("nobody's") == SpaceTraits("nobody's", None)
