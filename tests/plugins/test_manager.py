"""Plugins as strangers write them: good, broken in every way, and switched off."""

import importlib.metadata
import logging
import types

import pytest
import torch

import unicuco_plugin
from unicuco_plugin.compensation.methods import METHODS
from unicuco_plugin.errors import PluginError, RequestError, UnknownNameError
from unicuco_plugin.plugins import builtin, manager
from unicuco_plugin.plugins.manager import (
    GROUP,
    SWITCH,
    find_traits,
    list_plugins,
    make_compensation,
    make_objective,
    make_peer,
    make_ranking,
    make_scalarization,
    make_space,
    plugin_manager,
)
from unicuco_plugin.policy.scalarization import tchebycheff
from unicuco_plugin.scores.ranking import RANKINGS
from unicuco_plugin.spaces.depth import DepthSpace
from unicuco_plugin.traits import SPACES, Effect, SpaceTraits, traits_of

hookimpl = unicuco_plugin.hookimpl

PEERS = [
    "alphapruning",
    "atp",
    "attention_only",
    "auto_scheme",
    "cosine_window",
    "dlp",
    "evopress",
    "flap",
    "gradient_knapsack",
    "greedy",
    "interaction",
    "knapsack",
    "knapsack_narrow",
    "knapsack_wide",
    "mlp_only",
    "owl",
    "shortened_llama",
    "shortgpt",
    "structured_uniform",
    "uniform",
    "uniform_bits",
    "weight_subcloning",
]


class Entry:
    """An entry point as an installed distribution has it."""

    def __init__(self, name, plugin, dist=None):
        self.name, self.plugin, self.dist = name, plugin, dist

    def load(self):
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


@pytest.fixture
def install(monkeypatch):
    """Pretend that plugins are installed, for a fresh manager."""
    entries = []
    real = importlib.metadata.entry_points

    def entry_points(**wanted):
        return list(entries) if wanted.get("group") == GROUP else real(**wanted)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.delenv(SWITCH, raising=False)
    plugin_manager.cache_clear()

    def add(name, plugin, dist=None):
        entries.append(Entry(name, plugin, dist))
        plugin_manager.cache_clear()

    yield add
    plugin_manager.cache_clear()


def plugin_of(**hooks):
    """A module with hook implementations."""
    module = types.ModuleType("stranger")
    for name, function in hooks.items():
        setattr(module, name, hookimpl(function))
    return module


class Height(DepthSpace):
    """A space of a stranger's."""


def make_height(name, units, params):
    return Height(units, params, "height") if name == "height" else None


def listing(**names):
    return lambda kind: names.get(kind, ())


def names_of(kind):
    return [entry.name for entry in list_plugins() if entry.kind == kind]


def test_the_built_ins_are_listed_as_a_plugin_of_this_package(install):
    entries = list_plugins()
    assert [(entry.kind, entry.name) for entry in entries] == [
        ("space", "compound"),
        ("space", "depth"),
        ("space", "precision"),
        ("space", "sparsity"),
        ("space", "structured"),
        ("space", "sublayer"),
        ("objective", "divergence"),
        ("scalarization", "pbi"),
        ("scalarization", "pbi_0.1"),
        ("scalarization", "tchebycheff"),
        ("scalarization", "weighted_sum"),
        *(("peer", name) for name in PEERS),
        *(("ranking", name) for name in ("flap", "magnitude", "taylor", "wanda")),
        *(("compensation", name) for name in ("bias", "linear", "none", "ridge", "scale", "sequential")),
    ]
    assert {(entry.package, entry.version) for entry in entries} == {
        ("unicuco-plugin", importlib.metadata.version("unicuco-plugin"))
    }
    assert entries[0].hooks == (
        "unicuco_list",
        "unicuco_make_compensation",
        "unicuco_make_objective",
        "unicuco_make_peer",
        "unicuco_make_ranking",
        "unicuco_make_scalarization",
        "unicuco_make_space",
        "unicuco_space_traits",
    )


@pytest.mark.parametrize("physical", [False, True])
def test_whether_halves_leave_is_told_to_whoever_asks_and_to_no_one_else(install, physical):
    install("height", plugin_of(unicuco_make_space=make_height))  # takes neither this nor what else it leaves out
    assert make_space("height", ("a", "b"), (1, 2), physical=physical).physical
    halves = ("a.0.attn", "a.0.mlp", "a.1.attn", "a.1.mlp")
    assert make_space("sublayer", halves, (3, 5, 3, 5), physical=physical).physical is physical


def test_an_installed_plugin_adds_a_space_and_says_where_it_comes_from(install):
    dist = types.SimpleNamespace(name="unicuco-height", version="1.2")
    install("height", plugin_of(unicuco_make_space=make_height, unicuco_list=listing(space=["height"])), dist)
    space = make_space("height", ("a", "b"), (1, 2))
    assert isinstance(space, Height)
    [entry] = [entry for entry in list_plugins() if entry.name == "height"]
    assert (entry.package, entry.version, entry.hooks) == (
        "unicuco-height",
        "1.2",
        ("unicuco_list", "unicuco_make_space"),
    )


def test_a_plugin_adds_an_objective_and_is_given_the_request(install):
    asked = []

    def make(name, request):
        return asked.append(request) or "objective" if name == "beauty" else None

    install("beauty", plugin_of(unicuco_make_objective=make))
    assert make_objective("beauty", "the request") == "objective"
    assert asked == ["the request"]


def test_a_plugin_adds_a_scalarization(install):
    install("sum", plugin_of(unicuco_make_scalarization=lambda name: torch.sum if name == "sum" else None))
    assert make_scalarization("sum") is torch.sum
    assert make_scalarization("tchebycheff") is tchebycheff


def test_a_plugin_says_by_the_hook_unicuco_space_traits_what_its_space_does(install):
    assert traits_of("height") == SpaceTraits("height", None)
    mine = SpaceTraits("height", Effect.DROP)
    install("height", plugin_of(unicuco_space_traits=lambda name: mine if name == "height" else None))
    assert traits_of("height") is mine
    assert find_traits("width") is None
    assert find_traits("sublayer") is SPACES["sublayer"]


def test_a_plugin_does_not_change_what_a_built_in_space_does(install):
    install("thief", plugin_of(unicuco_space_traits=lambda name: SpaceTraits(name, Effect.ZERO)))
    assert traits_of("depth") == SpaceTraits("depth", Effect.DROP)
    assert traits_of("height").zeroes


@pytest.mark.parametrize("made", [SpaceTraits("width", Effect.DROP), "drop"])
def test_traits_that_are_not_those_of_the_space_are_refused(install, made):
    install("wrong", plugin_of(unicuco_space_traits=lambda name: made))
    with pytest.raises(PluginError, match="must return a SpaceTraits named 'height', got"):
        find_traits("height")


def test_a_plugin_that_fails_at_traits_is_named_by_its_hook(install):
    def fail(name):
        raise ValueError("no")

    install("broken", plugin_of(unicuco_space_traits=fail))
    with pytest.raises(PluginError, match=r"a plugin failed in unicuco_space_traits\('height'\): no"):
        find_traits("height")


@pytest.mark.parametrize("name", PEERS)
def test_every_built_in_peer_can_be_made_and_says_which_spaces_it_serves(install, name):
    assert set(make_peer(name).spaces) <= {"sparsity", "depth", "sublayer", "structured", "precision"}


def test_a_plugin_adds_a_peer_by_the_hook_unicuco_make_peer(install):
    install("oracle", plugin_of(unicuco_make_peer=lambda name: "peer" if name == "oracle" else None))
    assert make_peer("oracle") == "peer"


def test_a_plugin_adds_a_ranking_by_the_hook_unicuco_make_ranking(install):
    install("oracle", plugin_of(unicuco_make_ranking=lambda name: "ranking" if name == "oracle" else None))
    assert make_ranking("oracle") == "ranking"
    assert make_ranking("flap") is RANKINGS["flap"]


def test_a_plugin_adds_a_compensation_by_the_hook_unicuco_make_compensation(install):
    install("oracle", plugin_of(unicuco_make_compensation=lambda name: "solver" if name == "oracle" else None))
    assert make_compensation("oracle") == "solver"
    assert make_compensation("ridge") is METHODS["ridge"]


def test_the_newest_plugin_is_asked_first_and_may_replace_a_built_in(install):
    install("mine", plugin_of(unicuco_make_scalarization=lambda name: torch.sum if name == "tchebycheff" else None))
    assert make_scalarization("tchebycheff") is torch.sum


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make_space("height", (), ()),
            "space must be one of compound, depth, precision, sparsity, structured, sublayer; got 'height'",
        ),
        (lambda: make_objective("beauty", None), "objective must be one of divergence; got 'beauty'"),
        (
            lambda: make_scalarization("sum"),
            "scalarization must be one of pbi, pbi_0.1, tchebycheff, weighted_sum; got 'sum'",
        ),
        (lambda: make_peer("oracle"), f"peer must be one of {', '.join(PEERS)}; got 'oracle'"),
        (lambda: make_ranking("oracle"), "ranking must be one of flap, magnitude, taylor, wanda; got 'oracle'"),
        (
            lambda: make_compensation("oracle"),
            "compensation must be one of bias, linear, none, ridge, scale, sequential; got 'oracle'",
        ),
    ],
    ids=["space", "objective", "scalarization", "peer", "ranking", "compensation"],
)
def test_an_unknown_name_is_refused_with_those_there_are(install, call, message):
    with pytest.raises(UnknownNameError, match=f"^{message}$"):
        call()


def test_a_plugins_names_are_among_those_there_are(install):
    install("height", plugin_of(unicuco_make_space=make_height, unicuco_list=listing(space=["height"])))
    with pytest.raises(
        UnknownNameError, match=r"^space must be one of compound, depth, height, precision, spars.*; got 'width'$"
    ):
        make_space("width", (), ())


def misspelt():
    return plugin_of(unicuco_make_spice=lambda name: None)


def wrong_argument():
    return plugin_of(unicuco_make_space=lambda name, colour: None)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (ImportError("no module named numpie"), "no module named numpie"),
        (ValueError("at import"), "at import"),
        (misspelt(), "unknown hook 'unicuco_make_spice'"),
        (wrong_argument(), "colour"),
    ],
    ids=["import", "raises", "misspelt", "argument"],
)
def test_a_plugin_that_cannot_be_loaded_is_logged_by_name_and_skipped(install, caplog, broken, reason):
    install("broken", broken)
    install("height", plugin_of(unicuco_make_space=make_height, unicuco_list=listing(space=["height"])))
    with caplog.at_level(logging.WARNING):
        assert names_of("space") == ["compound", "depth", "height", "precision", "sparsity", "structured", "sublayer"]
    [record] = [record for record in caplog.records if "plugin broken" in record.getMessage()]
    assert "cannot be loaded and is skipped" in record.getMessage()
    assert reason in record.getMessage()
    assert isinstance(make_space("depth", ("a", "b"), (1, 1)), DepthSpace)
    assert "broken" not in dict(plugin_manager().list_name_plugin())


@pytest.mark.parametrize("name", ["builtin", "height"])
def test_a_second_plugin_of_a_name_is_skipped_and_the_first_stays(install, caplog, name):
    install("height", plugin_of(unicuco_make_space=make_height, unicuco_list=listing(space=["height"])))
    install(name, plugin_of(unicuco_list=listing(space=["width"])))
    with caplog.at_level(logging.WARNING):
        assert names_of("space") == ["compound", "depth", "height", "precision", "sparsity", "structured", "sublayer"]
    assert f"plugin {name} cannot be loaded and is skipped" in caplog.text
    assert plugin_manager().get_plugin("builtin") is builtin


def test_a_plugin_that_cannot_list_itself_is_logged_and_the_others_are_listed(install, caplog):
    def fail(kind):
        raise ZeroDivisionError(f"no {kind}")

    install("broken", plugin_of(unicuco_list=fail))
    with caplog.at_level(logging.WARNING):
        assert names_of("objective") == ["divergence"]
    assert "plugin broken cannot list its objective names: no objective" in caplog.text


def test_a_plugin_that_fails_when_asked_is_a_plugin_error_with_its_cause(install):
    def fail(name):
        raise ZeroDivisionError("oh no")

    install("broken", plugin_of(unicuco_make_scalarization=fail))
    message = r"^a plugin failed in unicuco_make_scalarization\('pbi'\): oh no$"
    with pytest.raises(PluginError, match=message) as caught:
        make_scalarization("pbi")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_error_of_ours_passes_through(install):
    def refuse(name):
        raise RequestError("sparsity must be round")

    install("strict", plugin_of(unicuco_make_scalarization=refuse))
    with pytest.raises(RequestError, match=r"^sparsity must be round$"):
        make_scalarization("pbi")


@pytest.mark.parametrize(("value", "loaded"), [("1", False), ("yes", False), ("0", True), ("", True)])
def test_the_switch_leaves_the_built_ins_alone(install, monkeypatch, value, loaded):
    install("height", plugin_of(unicuco_list=listing(space=["height"])))
    monkeypatch.setenv(SWITCH, value)
    plugin_manager.cache_clear()
    assert names_of("space") == (
        ["compound", "depth", "height", "precision", "sparsity", "structured", "sublayer"]
        if loaded
        else ["compound", "depth", "precision", "sparsity", "structured", "sublayer"]
    )


def test_there_is_one_manager(install):
    assert plugin_manager() is plugin_manager()
    assert manager.GROUP == "unicuco"
    assert SWITCH == "UNICUCO_DISABLE_PLUGINS"


def test_a_space_that_lacks_a_member_is_refused_when_it_is_built(install):
    class Old:
        """As spaces were before some units had to stay."""

        name, units, params, bounds = "height", (), (), ()

    install("height", plugin_of(unicuco_make_space=lambda name, **_: Old() if name == "height" else None))
    message = r"^the space 'height' must have all members of unicuco_plugin\.Space, lacks budgets$"
    with pytest.raises(PluginError, match=message):
        make_space("height", ("a", "b"), (1, 2))
