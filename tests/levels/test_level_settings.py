"""Settings of both kinds of database, and the digits that tell databases apart."""

import pytest

from unicuco_plugin.errors import LevelsError, StrategyError
from unicuco_plugin.levels.settings import LevelSettings, identify_levels, resolve_schemes


@pytest.mark.parametrize(
    ("settings", "identity"),
    [
        (LevelSettings(), "b2bbc290658061b9"),
        (LevelSettings(sparsities=(0.5,), inputs="dense", damping=0.1), "6586c09d1038d24b"),
    ],
)
def test_databases_of_sparsities_keep_the_digits_that_they_had_before_there_were_schemes(settings, identity):
    dumped = settings.model_dump(mode="json")
    assert list(dumped) == ["sparsities", "damping", "block_size", "inputs", "batch_windows"]
    assert identify_levels("0123456789abcdef", dumped) == identity


def test_settings_of_schemes_have_defaults_of_their_own_and_read_back():
    settings = LevelSettings(schemes=("W4A16", "W8A8"))
    assert (settings.sparsities, settings.inputs, settings.actorder) == ((), "dense", "static")
    assert (settings.kind, settings.count) == ("schemes", 2)
    dumped = settings.model_dump(mode="json")
    assert "sparsities" not in dumped
    assert LevelSettings.of(**dumped) == settings
    assert identify_levels("", dumped) != identify_levels("", dumped | {"actorder": "none"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"schemes": ("W4A16",), "sparsities": (0.5,)},
            "sparsities and schemes exclude each other: a database holds levels of one kind",
        ),
        ({"schemes": ("W4A16", "W4A16:g128")}, "schemes must be named once, got W4A16 twice"),
        ({"actorder": "static"}, "actorder is of schemes, a database of sparsities has none"),
        ({"schemes": ("W4A16",), "actorder": "group"}, "actorder: Input should be 'static' or 'none', got 'group'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(LevelsError) as caught:
        LevelSettings.of(**fields)
    assert str(caught.value) == message


def test_a_name_that_is_no_scheme_is_refused():
    with pytest.raises(LevelsError, match="scheme must be W2A16 to W8A16"):
        LevelSettings.of(schemes=("W4",))


def test_presets_are_resolved_for_a_linears_inputs_each_once_and_the_widest_first():
    names = ("W2A16", "W4A16:g64", "W4A16", "W8A16:channel", "NVFP4A16")
    assert [scheme.name for scheme in resolve_schemes(names, 576)] == [
        "W8A16:channel", "NVFP4A16", "W4A16:g64", "W2A16:g64",
    ]  # fmt: skip
    assert [scheme.name for scheme in resolve_schemes(names, 1536)][2:] == ["W4A16:g64", "W4A16", "W2A16"]


def test_a_preset_that_no_group_fits_is_left_out_and_a_group_that_was_asked_for_is_refused():
    assert [scheme.name for scheme in resolve_schemes(("W4A16", "W8A8"), 40)] == ["W8A8"]
    with pytest.raises(StrategyError, match="groups of 128, which do not divide 576 inputs; use g64 or g32"):
        resolve_schemes(("W4A16", "W3A16:g128"), 576)


SPELLINGS = ("W4A16", "W4A16:asym", "W3A16:g32", "W3A16:g64:asym", "W5A16:g128", "W8A16:channel", "W8A8", "NVFP4A16")


def test_other_spellings_of_schemes_are_the_same_database():
    settings = LevelSettings(schemes=SPELLINGS)
    assert settings.schemes == SPELLINGS  # written so they stay, and with them identities
    others = ("W4A16", "W4A16_ASYM", "W3A16:g32", "W3A16:asym:g64", "W5A16:g128", "W8A16:channel", "INT8", "NVFP4A16")
    assert LevelSettings(schemes=others) == settings
    # A group that was chosen is no preset: one is refused where the other takes a smaller group.
    assert LevelSettings(schemes=("W4A16:asym:g128",)).schemes == ("W4A16:g128:asym",)
